"""Finds the components that make Whisper repeat itself.

    python -m interp.loops --model=FOLDER --audio=talk.mp3 --audio=speech.flac --out=loops

Every window of the recordings is decoded as it is and under manipulations. The windows that loop are split in halves:
components of the decoder are ranked on one and counted on the other. --clean names recordings with transcripts (a .json
or .txt file of the same name), whose word errors are compared with and without the components. An interrupted run
continues where it stopped.
"""

import dataclasses
import json
import pathlib
import sys
import zlib
from collections.abc import Sequence
from typing import Literal

from core.launch import command
from core.launch.fields import field

Way = Literal[
  'unchanged',
  'backwards',
  'slow',
  'fast',
  'high',
  'noise',
  'muffled',
  'mirrored',
  'echoes',
  'spliced',
  'turned',
]


@dataclasses.dataclass(frozen=True)
class Options:
  """The program's flags."""

  model: str | None = field(None, "folder of a checkpoint, or OpenAI's .pt file")
  tokenizer: str | None = field(None, 'folder with tokenizer.json, if the checkpoint has none')
  audio: tuple[str, ...] = field((), 'a recording that loops or may be made to', repeated=True)
  clean: tuple[str, ...] = field((), 'a recording with a transcript, for word errors', repeated=True)
  out: str = field('loops', 'folder for the results')
  manipulation: tuple[Way, ...] = field((), 'of windows; all of them by default', repeated=True)
  value: Literal['zero', 'mean'] = field('zero', 'what takes the place of a component')
  size: int = field(3, 'components of the largest set', low=1)
  shortlist: int = field(12, 'components tried as a further member of a set', low=1)
  damage: float = field(0.01, 'edits a word of other texts that a set may cause', low=0)
  controls: int = field(10, 'random sets', low=1)
  most: int = field(40, 'clips that loop', low=2)
  tokens: int = field(224, 'of a window at most', low=1)
  seed: int = field(0, 'of the halves and the random sets')

  def __post_init__(self):
    if not self.model:
      raise ValueError('--model=FOLDER is needed')
    if not self.audio:
      raise ValueError('name at least one recording by --audio')
    names = [pathlib.Path(name).stem for name in self.audio]
    if len(set(names)) < len(names):
      raise ValueError(f'recordings {names} need names that differ')

  @property
  def manipulations(self) -> tuple[str, ...]:
    """Those asked for."""
    from interp.loops.manipulations import MANIPULATIONS

    return self.manipulation or tuple(MANIPULATIONS)


def work(options: Options) -> None:
  """Runs the study, writes results.json, loops.html and loops.png, and says what was found."""
  from interp import whisper
  from interp.loops import page
  from interp.loops.clips import clips, transcript
  from interp.loops.study import Settings, find

  texts = [transcript(path) for path in options.clean]
  config, params = whisper.load(options.model)
  processor = whisper.Processor.load(options.tokenizer or options.model)
  inputs = [clip for path in options.audio for clip in clips(path, options.manipulations, length=config.samples)]
  outcomes = _outcomes(options, config, params, processor, inputs)
  settings = Settings(
    size=options.size,
    shortlist=options.shortlist,
    damage=options.damage,
    controls=options.controls,
    most=options.most,
    seed=options.seed,
  )
  held_out = [pathlib.Path(path).stem for path in options.clean]
  found = find(outcomes, inputs, settings, held_out=held_out, progress=_say)
  errors = _word_errors(options, outcomes, params, texts, found.sets[-1].parts)
  out = pathlib.Path(options.out)
  (out / 'results.json').write_text(json.dumps(page.numbers(found, errors), indent=1), encoding='utf-8')
  page.write(out, found, errors)
  print('\n'.join(page.summary(found, errors)))


def _say(line: str) -> None:
  print(line, flush=True)


def _outcomes(options: Options, config, params, processor, clips):
  """The decoder of clips, with what takes the place of components."""
  from interp.loops import values
  from interp.loops.outcomes import Outcomes
  from interp.whisper.decoding.window import Recogniser
  from interp.whisper.options import Options as Decoding

  decoding = Decoding(timestamps=False, previous=False, temperatures=(0.0,), tokens=options.tokens)
  recogniser = Recogniser(params, config, processor, decoding)
  plain = [clip for clip in clips if clip.manipulation == 'unchanged']
  replaced = None
  if options.value == 'mean':
    replaced = values.means_of(recogniser, plain)
  digest = zlib.crc32(params.decoder.positions.tobytes())
  settings = f'{digest} {options.value} {options.tokens}'
  folder = pathlib.Path(options.out) / 'outcomes'
  return Outcomes(recogniser, replaced, folder, settings)


def _word_errors(options: Options, outcomes, params, texts: Sequence[str], parts) -> dict[str, dict[str, float]]:
  """Word error rate of each clean recording as it is and without the components, decoded by the default rules."""
  from interp import whisper
  from interp.loops.ablation import without
  from interp.loops.clips import word_errors

  r = outcomes.recogniser
  out = {}
  for path, text in zip(options.clean, texts):
    rates = {}
    for name, chosen in (('with', ()), ('without', parts)):
      edit = without(r.config, [chosen], outcomes.values)
      segments = whisper.transcribe(params, r.config, r.processor, path, edit=edit)
      edits, length = word_errors(text, ' '.join(segment.text for segment in segments))
      rates[name] = edits / length
      _say(f'{path} {name}: {edits} edits of {length} words')
    out[pathlib.Path(path).name] = rates
  return out


def main(argv: Sequence[str]) -> int:
  """Runs the program; returns its exit status: 0, 1 for an error or 2 for bad flags."""
  return command.run(argv, __doc__, Options, work)


if __name__ == '__main__':
  sys.exit(main(sys.argv))
