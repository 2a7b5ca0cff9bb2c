"""How well speech or a codec keeps recordings: mel distance, SNR, PESQ, STOI, speaker similarity, real-time factor.

    python -m bench.speech.run --references='spoken/*-recording.wav' --made='spoken/*-speech.wav' --out=quality.json
    python -m bench.speech.run --references='clips/*.wav' --codec=MODEL --out=codec.json

Files are paired in the order of their names, and compared over the shorter length. With --codec the acoustic tokenizer
of a TTS checkpoint makes the other side, from the means of the references. PESQ, STOI and similarity need the extra
`speech`; those that are not installed are left out, and said to be. --mos=module:function names a predictor of opinion
scores, such as UTMOS, that takes (float32 samples, rate) and returns a number; it hears both sides.
"""

import dataclasses
import glob
import importlib
import json
import pathlib
import sys
import time
from collections.abc import Callable, Sequence

import numpy as np

from core.launch import command
from core.launch.fields import field


@dataclasses.dataclass(frozen=True)
class Options:
  """The program's flags."""

  references: str | None = field(None, 'pattern of recordings')
  made: str | None = field(None, 'pattern of what was made of them')
  codec: str | None = field(None, 'folder of a TTS checkpoint, in place of --made')
  mos: str = field('', 'module:function of (samples, rate), a predictor of opinion scores')
  out: str | None = field(None, 'JSON file of all figures')

  def __post_init__(self):
    if not self.references or not self.out:
      raise ValueError('--references=PATTERN and --out=FILE are needed')
    if bool(self.made) == bool(self.codec):
      raise ValueError(f'--made={self.made}, --codec={self.codec}: expected one of the two')
    if self.mos and self.mos.count(':') != 1:
      raise ValueError(f'--mos={self.mos}: expected module:function')


def listed(pattern: str) -> list[pathlib.Path]:
  """The files of a pattern in order. Raises ValueError if there is none."""
  paths = [pathlib.Path(path) for path in sorted(glob.glob(pattern))]
  if not paths:
    raise ValueError(f'{pattern}: no such file')
  return paths


def predictor(name: str) -> Callable[[np.ndarray, int], float]:
  """The function that --mos names. Raises ValueError if there is none."""
  module, _, function = name.partition(':')
  try:
    return getattr(importlib.import_module(module), function)
  except (ImportError, AttributeError) as error:
    raise ValueError(f'--mos={name}: {error}') from error


def figures(reference: np.ndarray, made: np.ndarray, names: Sequence[str]) -> dict[str, float]:
  """Metrics of two clips float32 at 24 kHz over the shorter length. Raises ValueError if nothing is left of it."""
  from bench.speech.quality import METRICS
  from core.audio.resample import Resampler
  from vibevoice.config import SAMPLE_RATE

  count = min(len(reference), len(made))
  if count < SAMPLE_RATE // 10:
    raise ValueError(f'{count} samples to compare; expected a tenth of a second at least')
  pair = (reference[:count], made[:count])
  clips = {SAMPLE_RATE: pair}
  for rate in {METRICS[name].rate for name in names} - {SAMPLE_RATE}:
    resamplers = [Resampler(SAMPLE_RATE, rate) for _ in pair]
    clips[rate] = [np.concatenate([r(clip), r.end()]) for r, clip in zip(resamplers, pair)]
  return {name: METRICS[name].compute(*clips[METRICS[name].rate]) for name in names}


def codec(folder: str) -> Callable[[np.ndarray], np.ndarray]:
  """A clip [n] at 24 kHz through the acoustic tokenizer of a checkpoint."""
  import jax.numpy as jnp

  import vibevoice

  config, params = vibevoice.load(folder, dtype=jnp.float32)

  def through(clip: np.ndarray) -> np.ndarray:
    means = vibevoice.tokenizer.encode(params.acoustic, config.acoustic, clip[None])
    return np.asarray(vibevoice.tokenizer.decode(params.acoustic, config.acoustic, means))[0, : len(clip)]

  return through


def measure(options: Options) -> None:
  """Everything after the flags. Raises ValueError or OSError with one clear line."""
  from bench.speech import quality
  from core import audio
  from vibevoice.config import SAMPLE_RATE

  references = listed(options.references)
  made = listed(options.made) if options.made else [None] * len(references)
  if len(made) != len(references):
    raise ValueError(f'{len(references)} references and {len(made)} files made of them; expected as many')
  skipped = {name: reason for name in quality.METRICS if (reason := quality.missing(name))}
  names = [name for name in quality.METRICS if name not in skipped]
  mos = predictor(options.mos) if options.mos else None
  through = codec(options.codec) if options.codec else None
  rows = []
  for reference, other in zip(references, made):
    clip = audio.load(reference, SAMPLE_RATE)
    row = {'reference': str(reference)}
    if through is None:
      result = audio.load(other, SAMPLE_RATE)
    else:
      result, row['real_time_factor'] = _timed(through, clip)
    row |= figures(clip, result, names)
    if mos is not None:
      row |= {'mos': float(mos(result, SAMPLE_RATE)), 'mos_reference': float(mos(clip, SAMPLE_RATE))}
    rows.append(row)
  _report(options, rows, skipped)


def _timed(through: Callable, clip: np.ndarray) -> tuple[np.ndarray, float]:
  """(result, seconds a second of audio) of a second run, in which nothing is compiled."""
  from vibevoice.config import SAMPLE_RATE

  through(clip)
  start = time.process_time()
  result = through(clip)
  return result, (time.process_time() - start) * SAMPLE_RATE / len(clip)


def _report(options: Options, rows: list[dict], skipped: dict[str, str]) -> None:
  """Prints means and what was left out, and writes all figures."""
  names = [name for name in rows[0] if name != 'reference']
  means = {name: float(np.mean([row[name] for row in rows])) for name in names}
  for name, mean in means.items():
    print(f'{name}: {mean:.4g}')
  for name, reason in skipped.items():
    print(f'{name}: left out, {reason}')
  text = json.dumps({'means': means, 'skipped': skipped, 'rows': rows}, indent=2)
  pathlib.Path(options.out).write_text(text + '\n', encoding='utf-8')


def main(argv: Sequence[str]) -> int:
  """Runs the program; returns its exit status: 0, 1 for an error or 2 for bad flags."""
  return command.run(argv, __doc__, Options, measure)


if __name__ == '__main__':
  sys.exit(main(sys.argv))
