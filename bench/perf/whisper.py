"""Transcription by ours and by CTranslate2: CPU seconds a window of 30 seconds, and word errors, on one thread.

    python -m bench.perf.whisper --model=FOLDER --audio=talk.mp3 --audio=speech.flac

FOLDER is a CTranslate2 checkpoint of Whisper. Recordings are cut into plain windows; both decode each window in turn,
float32, without timestamps and fallback, at most 224 tokens, greedily and with 5 beams. Word errors need a transcript
(a .json or .txt file of the same name); at the end they are counted over all recordings. CTranslate2 halves its
`max_length`, so it is given twice the limit. Compile time is listed by itself, and so is our encoder.
"""

import dataclasses
import pathlib
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from bench.perf.measuring import pinned
from core.launch import command
from core.launch.fields import field

ENCODER = 'our encoder'

# jax is imported by the functions that need it: `pin` must come before its first import.


@dataclasses.dataclass(frozen=True)
class Options:
  """The program's flags."""

  model: str | None = field(None, 'folder of a CTranslate2 checkpoint')
  audio: tuple[str, ...] = field((), 'a recording', repeated=True)
  windows: int = field(1000, 'of each recording at most', low=1)
  beams: int = field(5, 'of beam search', low=2)
  tokens: int = field(224, 'of a window at most', low=1, high=224)

  def __post_init__(self):
    if not self.model or not self.audio:
      raise ValueError('--model=FOLDER and at least one --audio=FILE are needed')


@dataclasses.dataclass
class Arm:
  """One way to transcribe a window: CPU seconds and texts so far."""

  run: Callable[[Any], str]
  seconds: list[float] = dataclasses.field(default_factory=list)
  texts: list[str] = dataclasses.field(default_factory=list)

  def __call__(self, mel) -> None:
    """Transcribes log-mel frames [3000, mels] of one window."""
    start = time.process_time()
    text = self.run(mel)
    self.seconds.append(time.process_time() - start)
    self.texts.append(text)

  def reset(self) -> None:
    """Forgets the windows of a warm-up or of an earlier recording."""
    self.seconds = []
    self.texts = []


def _encoder(options: Options) -> Callable:
  """mel → '' by our encoder alone."""
  import jax

  from interp import whisper
  from interp.whisper.decoding.window import audio_keys

  config, params = whisper.load(options.model)

  def run(mel) -> str:
    jax.block_until_ready(audio_keys(params, config, mel[None]))
    return ''

  return run


def _windows(path: str, options: Options):
  """Log-mel frames [3000, mels] of each plain window of a recording."""
  from core import audio
  from interp.whisper import CONFIGS, frontend
  from interp.whisper.config import RATE

  length = CONFIGS['tiny'].samples
  samples = audio.load(path, RATE)
  starts = range(0, len(samples), length)[: options.windows]
  return [frontend.log_mel(samples[at : at + length], 80, length=length) for at in starts]


def _errors(path: str, texts: Sequence[str]) -> tuple[int, int]:
  """(edits, words of the transcript) of joined texts; (0, 0) without a transcript."""
  from interp.loops.clips import transcript, word_errors

  try:
    reference = transcript(path)
  except ValueError:
    return 0, 0
  return word_errors(reference, ' '.join(texts))


def _rate(edits: int, words: int) -> str:
  """Word error rate; '-' without words."""
  if not words:
    return '-'
  return f'{edits / words:.1%}'


def work(options: Options) -> None:
  """Transcribes every recording in each way, and prints a line for each."""
  pinned.pin()
  from bench.speech.recognisers import recogniser

  arms = {ENCODER: Arm(_encoder(options))}
  for beams in (1, options.beams):
    name = 'greedy' if beams == 1 else f'{beams} beams'
    limits = {'beams': beams, 'tokens': options.tokens}
    arms[f'ours, {name}'] = Arm(recogniser('ours', options.model, **limits))
    arms[f'CTranslate2, {name}'] = Arm(recogniser('ctranslate2', options.model, **limits))
  totals = dict.fromkeys(arms, (0, 0))
  for path in options.audio:
    windows = _windows(path, options)
    if path == options.audio[0]:
      _warm_up(arms, windows[0])
    for mel in windows:
      for arm in arms.values():
        arm(mel)
    errors = {name: _errors(path, arm.texts) for name, arm in arms.items()}
    _report(path, arms, errors)
    for name, arm in arms.items():
      edits, words = errors[name]
      totals[name] = (totals[name][0] + edits, totals[name][1] + words)
      arm.reset()
  print(f'\n{len(options.audio)} recordings: word errors, words of their transcripts')
  for name, (edits, words) in totals.items():
    if name != ENCODER:
      print(f'{name:24} {edits:4} {words:5} {_rate(edits, words):>7}')


def _warm_up(arms: dict[str, Arm], mel) -> None:
  """Compiles and loads; every later window has these shapes."""
  for name, arm in arms.items():
    start = time.process_time()
    arm.run(mel)
    print(f'first window, {name}: {time.process_time() - start:.1f} s', flush=True)


def _report(path: str, arms: dict[str, Arm], errors: dict[str, tuple[int, int]]) -> None:
  print(f'\n{pathlib.Path(path).name}: windows, CPU seconds a window, word error rate')
  for name, arm in arms.items():
    mean = sum(arm.seconds) / len(arm.seconds)
    rate = '' if name == ENCODER else _rate(*errors[name])
    print(f'{name:24} {len(arm.seconds):3} {mean:6.2f} {rate:>7}', flush=True)
  names = [name for name in arms if name.startswith('ours')]
  for name in names:
    other = arms[name.replace('ours', 'CTranslate2')]
    same = sum(a == b for a, b in zip(arms[name].texts, other.texts))
    ratio = sum(arms[name].seconds) / sum(other.seconds)
    print(f'{name}: {ratio:.2f} times the CPU time of CTranslate2; {same} of {len(other.texts)} texts are equal')


def main(argv: Sequence[str]) -> int:
  """Runs the program; returns its exit status."""
  return command.run(argv, __doc__, Options, work)


if __name__ == '__main__':
  sys.exit(main(sys.argv))
