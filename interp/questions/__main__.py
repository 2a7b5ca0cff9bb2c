"""Asks a Whisper what its layers know and when it decides, and says what was found.

    python -m interp.questions --model=FOLDER --audio=talk.mp3 --audio=speech.flac --out=questions

Probes of the encoder are trained on synthetic speech (extra `espeak`): voice, accent, noise, language. The logit lens
and the encoder lens see the windows of the recordings. Sentences in which an unlikely word is spoken show whether the
model writes what it hears or what it expects, and which branches are behind it.
"""

import dataclasses
import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Literal

from core.launch import command
from core.launch.fields import field

LENGTH = 30.0  # seconds of a window of the published models


@dataclasses.dataclass(frozen=True)
class Options:
  """The program's flags."""

  model: str | None = field(None, "folder of a checkpoint, or OpenAI's .pt file")
  tokenizer: str | None = field(None, 'folder with tokenizer.json, if the checkpoint has none')
  audio: tuple[str, ...] = field((), 'a recording for the lenses; without one there are none', repeated=True)
  windows: int = field(12, 'of each recording at most', low=1)
  tokens: int = field(112, 'of a window at most', low=1)
  ask: Literal['all', 'probes', 'lenses', 'bias'] = field('all', 'part of the study')
  seconds: float = field(LENGTH, 'of the window in which the probed clips are', low=1.0, high=LENGTH)
  out: str = field('questions', 'folder for results.json and the charts')

  def __post_init__(self):
    if not self.model:
      raise ValueError('--model=FOLDER is needed')
    if self.ask == 'lenses' and not self.audio:
      raise ValueError('name at least one recording by --audio for the lenses')

  def asks(self, part: str) -> bool:
    """Whether a part of the study is asked for."""
    return self.ask in ('all', part)


def work(options: Options) -> None:
  """Runs the study, writes its files and says what was found."""
  from core.report.charts import save
  from interp import whisper
  from interp.questions import charts, findings

  config, params = whisper.load(options.model)
  answers = _probes(options, config, params) if options.asks('probes') else []
  seen = _lenses(options, config, params) if options.asks('lenses') and options.audio else None
  found = _bias(options, config, params) if options.asks('bias') else None
  out = pathlib.Path(options.out)
  out.mkdir(parents=True, exist_ok=True)
  numbers = findings.numbers(answers, seen, found)
  text = json.dumps(numbers, indent=1)
  (out / 'results.json').write_text(text, encoding='utf-8')
  if answers:
    save(charts.probes(answers), out / 'probes.png')
  if seen is not None:
    save(charts.lenses(seen), out / 'lenses.png')
  if found is not None and len(found.recovered):
    save(charts.bias(found), out / 'bias.png')
  print('\n'.join(findings.summary(answers, seen, found)))


def _probes(options: Options, config, params) -> list:
  from interp.questions.layers import answers
  from interp.questions.speech import speech
  from interp.whisper.config import HOP, RATE, STRIDE

  position = HOP * STRIDE  # samples of an encoder position
  wanted = min(round(options.seconds * RATE), config.samples)
  samples = wanted // position * position
  return [one for clips in speech() for one in answers(params, config, clips, samples=samples)]


def _lenses(options: Options, config, params):
  from core import audio
  from interp.questions.lenses import lenses
  from interp.whisper.config import RATE

  windows = []
  for path in options.audio:
    samples = audio.load(path, RATE)
    starts = range(0, len(samples), config.samples)[: options.windows]
    windows += [samples[at : at + config.samples] for at in starts]
  return lenses(_recogniser(options, config, params), windows)


def _bias(options: Options, config, params):
  from interp.questions.bias import bias, sentences

  return bias(_recogniser(options, config, params), list(sentences()))


def _recogniser(options: Options, config, params):
  """Of greedy decoding, one window by itself."""
  from interp import whisper
  from interp.whisper.decoding.window import Recogniser
  from interp.whisper.options import Options as Decoding

  processor = whisper.Processor.load(options.tokenizer or options.model)
  decoding = Decoding(timestamps=False, previous=False, temperatures=(0.0,), tokens=options.tokens)
  return Recogniser(params, config, processor, decoding)


def main(argv: Sequence[str]) -> int:
  """Runs the program; returns its exit status: 0, 1 for an error or 2 for bad flags."""
  return command.run(argv, __doc__, Options, work)


if __name__ == '__main__':
  sys.exit(main(sys.argv))
