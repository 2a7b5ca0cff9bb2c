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
  length = len(tokens)
  slots = padding.bucket(length)
  row = padding.batch([tokens], dtype=np.int32, length=slots)
  positions = padding.positions([length], slots)
  chosen = jnp.asarray(heads, jnp.int32)
  scores, logp = _attention(params, config, keys, row, positions, chosen)
  return np.asarray(scores)[:, :length], np.asarray(logp)[: length - 1]


@functools.partial(jax.jit, static_argnames='config')
def _attention(params, config: Config, keys, tokens, positions, heads):
  out = decoder.forward(params, config, tokens, keys, positions=positions, keep=('cross_scores',))
  layers, numbers = heads.T
  scores = out.kept['cross_scores'][layers, 0, numbers]
  logits = decoder.logits(params, out.hidden[0, :-1])
  logp = jax.nn.log_softmax(logits)
  following = tokens[0, 1:, None]
  return scores, jnp.take_along_axis(logp, following, -1)[:, 0]


def softmax(scores: np.ndarray) -> np.ndarray:
  """Over the last axis."""
  largest = scores.max(-1, keepdims=True)
  e = np.exp(scores - largest)
  return e / e.sum(-1, keepdims=True)


def sharpness(weights: np.ndarray) -> np.ndarray:
  """Attention [A, T, S] as one matrix [T, S]: each frame standardised over tokens, smoothed over time, heads averaged.

  Frames that all tokens attend to alike, such as those of a sink, so carry no weight.
  """
  normal = _standardised(weights)
  if normal.shape[-1] > MEDIAN_WIDTH // 2:
    normal = _smoothed(normal)
  return normal.mean(0)


def _standardised(weights: np.ndarray) -> np.ndarray:
  """[A, T, S] with mean 0 and deviation 1 over the tokens of each frame; 0 where they do not differ."""
  mean = weights.mean(1, keepdims=True)
  spread = weights.std(1, keepdims=True)
  centred = weights - mean
  nothing = np.zeros_like(centred)
  return np.divide(centred, spread, out=nothing, where=spread > 0)


def _smoothed(x: np.ndarray) -> np.ndarray:
  """The running median of [A, T, S] over time, reflected at both ends."""
  side = MEDIAN_WIDTH // 2
  padded = np.pad(x, ((0, 0), (0, 0), (side, side)), mode='reflect')
  neighbours = sliding_window_view(padded, MEDIAN_WIDTH, -1)
  return np.median(neighbours, -1)


BOTH, DOWN, RIGHT = range(3)  # steps of a path: to the next row and column, to the next row, to the next column


def warp(cost: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """(rows, columns) of the cheapest monotonic path through a cost matrix [T, S], float32 as published.

  A diagonal step needs to be strictly cheapest, then one to the next row; ties go to the next column.
  """
  steps = _cheapest_steps(cost.astype(np.float32))
  row, column = cost.shape
  path = []
  while row > 0 or column > 0:
    path.append((row - 1, column - 1))
    step = steps[row, column]
    if step != RIGHT:
      row -= 1
    if step != DOWN:
      column -= 1
  path.reverse()
  rows, columns = np.array(path).T
  return rows, columns


def _cheapest_steps(cost: np.ndarray) -> np.ndarray:
  """int8 [T + 1, S + 1]: the last step of the cheapest path to each cell, by antidiagonals, whose cells do not depend
  on one another."""
  height, width = cost.shape
  shape = (height + 1, width + 1)
  total = np.full(shape, np.inf, np.float32)
  total[0, 0] = 0
  steps = np.full(shape, RIGHT, np.int8)
  steps[1:, 0] = DOWN
  for diagonal in range(2, height + width + 1):
    first = max(1, diagonal - width)
    last = min(height, diagonal - 1)
    rows = np.arange(first, last + 1)
    columns = diagonal - rows
    above = rows - 1
    left = columns - 1
    before = (total[above, left], total[above, columns], total[rows, left])
    step = _cheapest(*before)
    steps[rows, columns] = step
    total[rows, columns] = cost[above, left] + np.choose(step, before)
  return steps


def _cheapest(both: np.ndarray, down: np.ndarray, right: np.ndarray) -> np.ndarray:
  """The step to each of n cells, by the cost [n] of the path before each step."""
  goes_both = (both < down) & (both < right)
  goes_down = (down < both) & (down < right)
  step = np.full(len(both), RIGHT)
  step[goes_both] = BOTH
  step[goes_down] = DOWN
  return step


def starts(matrix: np.ndarray) -> np.ndarray:
  """The first column, int [T], of each row of a matrix [T, S] on its best monotonic path."""
  rows, columns = warp(-matrix)
  is_first = np.diff(rows, prepend=-1) > 0
  return columns[is_first]


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
  row = [*prompt, *tokens[:-1]]
  scores, _ = attention(params, config, keys, row, heads)
  positions = None if frames is None else frames // STRIDE
  weights = softmax(scores)[:, len(prompt) :, :positions]
  matrix = sharpness(weights)
  times = starts(matrix) / TIMESTAMPS_A_SECOND
  return np.append(times, times[-1])
