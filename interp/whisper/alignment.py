"""When tokens are spoken, by dynamic time warping of cross-attention.

T tokens   S encoder positions, 50 a second   A attention heads
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from core import padding
from interp.whisper import decoder
from interp.whisper.config import STRIDE, Config
from interp.whisper.processor import TIMESTAMPS_A_SECOND

MEDIAN_WIDTH = 7
Heads = tuple[tuple[int, int], ...]


def default_heads(config: Config) -> Heads:
  """(layer, head) of every head in the upper half of the decoder: where a checkpoint publishes none."""
  layers = range(config.decoder_depth // 2, config.decoder_depth)
  return tuple((layer, head) for layer in layers for head in range(config.heads))


def attention(
  params: decoder.Params, config: Config, keys: tuple, tokens: list[int], heads: Heads
) -> tuple[np.ndarray, np.ndarray]:
  """(scores before the softmax [A, T, S], log-probability of each next token [T - 1]) of one row, teacher-forced."""
  slots = padding.bucket(len(tokens))
  row = padding.batch([tokens], dtype=np.int32, length=slots)
  positions = padding.positions([len(tokens)], slots)
  chosen = jnp.asarray(heads, jnp.int32)
  scores, logp = _attention(params, config, keys, jnp.asarray(row), jnp.asarray(positions), chosen)
  return np.asarray(scores)[:, : len(tokens)], np.asarray(logp)[: len(tokens) - 1]


@functools.partial(jax.jit, static_argnames='config')
def _attention(params, config: Config, keys, tokens, positions, heads):
  out = decoder.forward(params, config, tokens, keys, positions=positions, keep=('cross_scores',))
  scores = out.kept['cross_scores'][heads[:, 0], 0, heads[:, 1]]
  logp = jax.nn.log_softmax(decoder.logits(params, out.hidden[0, :-1]))
  return scores, jnp.take_along_axis(logp, tokens[0, 1:, None], -1)[:, 0]


def softmax(scores: np.ndarray) -> np.ndarray:
  """Over the last axis."""
  e = np.exp(scores - scores.max(-1, keepdims=True))
  return e / e.sum(-1, keepdims=True)


def sharpness(weights: np.ndarray) -> np.ndarray:
  """Attention [A, T, S] as one matrix [T, S]: each frame standardised over tokens, smoothed over time, heads averaged.

  Frames that all tokens attend to alike, such as those of a sink, so carry no weight.
  """
  centred = weights - weights.mean(1, keepdims=True)
  spread = weights.std(1, keepdims=True)
  normal = np.divide(centred, spread, out=np.zeros_like(centred), where=spread > 0)
  if normal.shape[-1] > MEDIAN_WIDTH // 2:
    side = MEDIAN_WIDTH // 2
    padded = np.pad(normal, ((0, 0), (0, 0), (side, side)), mode='reflect')
    normal = np.median(sliding_window_view(padded, MEDIAN_WIDTH, -1), -1)
  return normal.mean(0)


BOTH, DOWN, RIGHT = range(3)  # steps of a path: to the next row and column, to the next row, to the next column


def warp(cost: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """(rows, columns) of the cheapest monotonic path through a cost matrix [T, S], float32 as published.

  A diagonal step needs to be strictly cheapest, then one to the next row; ties go to the next column.
  """
  step = _cheapest_steps(cost)
  path = []
  i, j = cost.shape
  while i > 0 or j > 0:
    path.append((i - 1, j - 1))
    move = RIGHT if i == 0 else step[i, j]
    i -= move in (BOTH, DOWN)
    j -= move in (BOTH, RIGHT)
  rows, columns = np.array(path[::-1]).T
  return rows, columns


def _cheapest_steps(cost: np.ndarray) -> np.ndarray:
  """int8 [T + 1, S + 1]: the last step of the cheapest path to each cell, by antidiagonals, whose cells do not depend
  on one another."""
  height, width = cost.shape
  total = np.full((height + 1, width + 1), np.inf, np.float32)
  step = np.full((height + 1, width + 1), RIGHT, np.int8)
  step[1:, 0] = DOWN
  total[0, 0] = 0
  for diagonal in range(2, height + width + 1):
    first = max(1, diagonal - width)
    last = min(height, diagonal - 1)
    i = np.arange(first, last + 1)
    j = diagonal - i
    both = total[i - 1, j - 1]
    down = total[i - 1, j]
    right = total[i, j - 1]
    choice = np.full(len(i), RIGHT)
    choice[(down < both) & (down < right)] = DOWN
    choice[(both < down) & (both < right)] = BOTH
    step[i, j] = choice
    before = np.choose(choice, (both, down, right))
    total[i, j] = cost[i - 1, j - 1].astype(np.float32) + before
  return step


def starts(matrix: np.ndarray) -> np.ndarray:
  """The first column, int [T], of each row of a matrix [T, S] on its best monotonic path."""
  rows, columns = warp(-matrix)
  first = np.diff(rows, prepend=-1) > 0
  return columns[first]


def token_times(
  params: decoder.Params,
  config: Config,
  keys: tuple,
  prompt: list[int],
  tokens: list[int],
  heads: Heads,
  *,
  frames: int | None = None,
) -> np.ndarray:
  """Seconds from the start of the window at which each of `tokens` begins, float [T], as transformers has them.

  Attention is that of generation: of the step that read the token, normalised over the whole window and then cut to
  `frames` mel frames. The last token was not read, and has the time of the one before it.
  """
  if len(tokens) < 2:
    return np.zeros(len(tokens))
  scores, _ = attention(params, config, keys, [*prompt, *tokens[:-1]], heads)
  positions = scores.shape[-1] if frames is None else frames // STRIDE
  weights = softmax(scores)[:, len(prompt) :, :positions]
  times = starts(sharpness(weights)) / TIMESTAMPS_A_SECOND
  return np.append(times, times[-1])
