"""Audio that arrives in pieces of any size: a stream buffers samples to whole hops.

B batch   N samples   F frames
"""

import functools
from typing import Literal

import jax
import numpy as np
from flax import struct

from vibevoice.config import TokenizerConfig
from vibevoice.tokenizer import encoder
from vibevoice.tokenizer.codec import Params
from vibevoice.tokenizer.tower import State

LARGEST = 64  # frames of one step: pieces of 1, 2, 4 … 64 frames are the only shapes compiled

_step = jax.jit(encoder.apply, static_argnames=('config', 'ceil'))


@struct.dataclass
class Stream:
  """The encoder's state after the frames so far, and float32 samples [B, < hop] of the next one."""

  state: State
  pending: np.ndarray


def start(params: Params, config: TokenizerConfig, rows: int) -> Stream:
  """A stream of `rows` recordings of equal length."""
  return Stream(state=encoder.initial(params.encoder, config, rows), pending=np.zeros((rows, 0), np.float32))


def push(params: Params, config: TokenizerConfig, stream: Stream, wav: np.ndarray) -> tuple[np.ndarray, Stream]:
  """(means [B, F, latent] of the frames that `wav` [B, N] completes, the stream after it). F may be 0."""
  samples = np.concatenate([stream.pending, np.asarray(wav, np.float32)], 1)
  done = 0
  state = stream.state
  means = [np.zeros((samples.shape[0], 0, config.latent), np.float32)]
  for count in _pieces(samples.shape[1] // config.hop):
    piece = samples[:, done : done + count * config.hop]
    new, state = _step(params.encoder, config, piece, state)
    means.append(np.asarray(new))
    done += piece.shape[1]
  return np.concatenate(means, 1), Stream(state=state, pending=samples[:, done:])


def finish(
  params: Params, config: TokenizerConfig, stream: Stream, *, tail: Literal['pad', 'layerwise'] = 'pad'
) -> np.ndarray:
  """Means [B, 0 or 1, latent] of the samples that are left, ended as `encode` ends a recording."""
  rows, left = stream.pending.shape
  if not left:
    return np.zeros((rows, 0, config.latent), np.float32)
  pending = stream.pending
  if tail == 'pad':
    pending = np.pad(pending, ((0, 0), (0, config.hop - left)))
  means, _ = _step(params.encoder, config, pending, stream.state, ceil=tail == 'layerwise')
  return np.asarray(means)


@functools.cache
def _pieces(frames: int) -> tuple[int, ...]:
  """Powers of two, at most LARGEST, that add up to `frames`."""
  pieces = [LARGEST] * (frames // LARGEST)
  rest = frames % LARGEST
  pieces += [1 << bit for bit in reversed(range(LARGEST.bit_length())) if rest >> bit & 1]
  return tuple(pieces)
