"""Sample rates by soxr: whole recordings or streams, whose blocks join to the same samples."""

import numpy as np

LOWEST = 1_000
HIGHEST = 768_000


class Resampler:
  """A stream from `source` to `target` Hz: call it with each block, then `end`."""

  def __init__(self, source: int, target: int):
    for rate in (source, target):
      if not LOWEST <= rate <= HIGHEST:
        raise ValueError(f'sample rate {rate} Hz; expected {LOWEST} to {HIGHEST}')
    self._stream = None
    if source != target:
      import soxr

      self._stream = soxr.ResampleStream(source, target, 1, dtype='float32', quality='HQ')

  def __call__(self, block: np.ndarray) -> np.ndarray:
    """What is ready after one more block, float32 [samples], possibly none."""
    return self._feed(block, last=False)

  def end(self) -> np.ndarray:
    """The rest of the stream."""
    return self._feed(np.zeros(0, np.float32), last=True)

  def _feed(self, block, *, last: bool) -> np.ndarray:
    block = np.asarray(block, np.float32)
    if self._stream is None:
      return block
    return self._stream.resample_chunk(block, last=last)


def to_rate(samples: np.ndarray, source: int, target: int) -> np.ndarray:
  """Mono samples [n] at `source` Hz as float32 at `target` Hz, band-limited."""
  resampler = Resampler(source, target)
  return np.concatenate([resampler(samples), resampler.end()])
