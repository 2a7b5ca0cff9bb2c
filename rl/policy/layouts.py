"""Trajectories as arrays for a forward pass, in one of two layouts.

'shared'  a prompt goes through the model once, and its responses continue from its keys and values
'rows'    every trajectory is a whole row, prompt and response in one

B groups   G trajectories a group   P prompt slots   N response slots   K rows   T row slots   D width
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from core import decoder, padding
from core.mesh import RULES
from core.padding import bucket
from core.past import Prefix

Layout = Literal['shared', 'rows']


class Slots(NamedTuple):
  """Sizes of the padded arrays.

  prompt: tokens of a prompt, 0 in rows. response: of a response, or of a whole row. samples: of a group. tiles: images
  of a prompt.
  """

  prompt: int
  response: int
  samples: int = 1
  tiles: int = 0

  def bucketed(self) -> 'Slots':
    """Lengths and tiles rounded up to sizes of which there are few, so that few programs are compiled."""
    prompt = bucket(self.prompt) if self.prompt else 0
    tiles = bucket(self.tiles, 2) if self.tiles > 1 else self.tiles
    return self._replace(prompt=prompt, response=bucket(self.response), tiles=tiles)


ANY_SLOTS = Slots(0, 0, 0)  # no size is given


@struct.dataclass
class Shared:
  """Prompts that all end in the same column, and the responses to each."""

  tokens: Any  # int32 [B, P]
  positions: Any  # int32 [B, P], -1 at the padding on the left
  said: Any  # int32 [B, G, N]
  mask: Any  # bool [B, G, N], the tokens of a response, tools' included
  pixels: Any = None  # float32 [B, n, S, S, 3]


@struct.dataclass
class Rows:
  """Whole conversations, padded on the right."""

  tokens: Any  # int32 [K, T]
  length: Any  # int32 [K]
  pixels: Any = None  # float32 [K, n, S, S, 3]


def needs(groups: Sequence[Sequence[Any]], layout: Layout) -> Slots:
  """The slots that trajectories need, images aside."""
  every = [t for group in groups for t in group]
  prompt = max((len(t.prompt.tokens) for t in every), default=1)
  response = max((len(t.tokens) for t in every), default=1)
  whole = max((len(t.prompt.tokens) + len(t.tokens) for t in every), default=1)
  samples = max(map(len, groups), default=1)
  return Slots(0, whole, samples) if layout == 'rows' else Slots(prompt, response, samples)


def shared(groups: Sequence[Sequence[Any]], slots: Slots, *, pad_id: int) -> Shared:
  """Groups of trajectories, each group with the prompt of its first; groups that are short get empty responses."""
  prompts = [group[0].prompt.tokens for group in groups]
  tokens = padding.batch(prompts, dtype=np.int32, length=slots.prompt, side='left', fill=pad_id, what='prompt')
  positions = padding.positions([len(x) for x in prompts], slots.prompt, side='left')
  size = {'samples': slots.samples, 'length': slots.response}
  said = spread(groups, lambda t: t.tokens, dtype=np.int32, **size)
  mask = spread(groups, lambda t: np.ones(len(t.tokens), bool), dtype=bool, **size)
  return Shared(tokens, positions, said, mask)


def spread(
  groups: Sequence[Sequence[Any]],
  values: Callable[[Any], np.ndarray],
  *,
  samples: int,
  length: int,
  dtype: Any,
) -> np.ndarray:
  """values(t) [n], one for each token of a trajectory's response, as [B, G, N] of G = `samples`, N = `length`.

  0 where there is no token. Raises ValueError where G or N is too small.
  """
  size = {'length': length, 'count': samples, 'dtype': dtype, 'what': 'response'}
  return np.stack([padding.batch([values(t) for t in group], **size) for group in groups])


def rows(trajectories: Sequence[Any], slots: Slots, *, pad_id: int) -> Rows:
  """Each trajectory as a row."""
  whole = [np.concatenate([t.prompt.tokens, t.tokens]) for t in trajectories]
  tokens = padding.batch(whole, dtype=np.int32, length=slots.response, fill=pad_id, what='conversation')
  return Rows(tokens, np.array([len(x) for x in whole], np.int32))


def shapes(groups: int, slots: Slots) -> Shared:
  """The shapes of inputs in the shared layout, without images."""
  an = lambda dtype, *shape: jax.ShapeDtypeStruct((groups, *shape), dtype)
  prompt, response = an(jnp.int32, slots.prompt), (slots.samples, slots.response)
  return Shared(prompt, prompt, an(jnp.int32, *response), an(jnp.bool_, *response))


def visible(groups: int, slots: Slots, triangle: Callable[[int, int | None], float]) -> Callable[[int | None], float]:
  """From a window to the visible pairs of query and key in the shared layout; triangle(length, window): of one row."""

  def pairs(window: int | None) -> float:
    before = triangle(slots.prompt, window)
    return groups * (before + slots.samples * (triangle(slots.prompt + slots.response, window) - before))

  return pairs


def place(values: np.ndarray, groups: Sequence[Sequence[Any]], layout: Layout, slots: Slots) -> np.ndarray:
  """Values of response tokens [B, G, N], or of responses [B, G, 1], where `log_probs` has them.

  [B, G, N or 1] in the shared layout, [K, T-1 or 1] in rows, 0 at tokens of the prompt.
  """
  if layout == 'shared':
    return values
  whole = values.shape[-1] == 1
  out = np.zeros((sum(map(len, groups)), 1 if whole else slots.response - 1), values.dtype)
  for k, (b, g, t) in enumerate(_each(groups)):
    out[(k, slice(None)) if whole else (k, _at(t))] = values[b, g, _skipped(t) : None if whole else len(t.tokens)]
  return out


def lift(
  values: np.ndarray, groups: Sequence[Sequence[Any]], layout: Layout, shape: tuple[int, int, int]
) -> np.ndarray:
  """The inverse of `place`: values of response tokens as an array of `shape` [B, G, N], 0 where there is none."""
  if layout == 'shared':
    return values
  out = np.zeros(shape, values.dtype)
  for k, (b, g, t) in enumerate(_each(groups)):
    out[b, g, _skipped(t) : len(t.tokens)] = values[k, _at(t)]
  return out


def _each(groups):
  return [(b, g, t) for b, group in enumerate(groups) for g, t in enumerate(group)]


def _skipped(t: Any) -> int:
  """Tokens without a log-probability: the first one of a row that has no prompt."""
  return 0 if len(t.prompt.tokens) else 1


def _at(t: Any) -> slice:
  """Where a row's log-probabilities are those of the response."""
  first = len(t.prompt.tokens) - 1
  return slice(max(first, 0), first + len(t.tokens))


def log_probs(
  params: decoder.Params,
  config: decoder.Config,
  inputs: Shared | Rows,
  embedded: jax.Array,
  *,
  temperature: float = 1.0,
  remat: str = 'none',
  rules: dict = RULES,
) -> tuple[jax.Array, jax.Array]:
  """(log-probability, entropy) float32 [B, G, N] or [K, T-1] under a decoder.

  embedded: [B, P, D] of the prompts, or [K, T-1, D] of all tokens but the last, media in their places.
  """
  score = _shared_log_probs if isinstance(inputs, Shared) else _row_log_probs
  return score(params, config, inputs, embedded, temperature=temperature, remat=remat, rules=rules)


def _shared_log_probs(params, config, inputs: Shared, embedded, *, temperature, remat, rules):
  b, g, n = inputs.said.shape
  said = inputs.said.reshape(b * g, n)
  options = {'remat_policy': remat, 'rules': rules}
  capacity = inputs.tokens.shape[1]
  prompt = decoder.forward(params, config, embedded, positions=inputs.positions, cache=capacity, **options)
  start = jnp.repeat(inputs.positions.max(-1, keepdims=True) + 1, g, 0)
  positions = jnp.where(inputs.mask.reshape(b * g, n), start + jnp.arange(n), -1)
  # All N tokens, although nothing follows the last one: a mesh splits N, and rarely N - 1.
  x = decoder.embed(params, said, rules)
  rest = decoder.forward(params, config, x, positions=positions, cache=Prefix(prompt.cache), **options)
  hidden = jnp.concatenate([jnp.repeat(prompt.hidden[:, -1:], g, 0), rest.hidden[:, :-1]], 1)
  pair = decoder.log_probs(params, config, hidden, said, temperature=temperature, rules=rules)
  return tuple(x.reshape(b, g, n) for x in pair)


def _row_log_probs(params, config, inputs: Rows, embedded, *, temperature, remat, rules):
  at = jnp.arange(inputs.tokens.shape[1] - 1)
  positions = jnp.where(at < jnp.asarray(inputs.length)[:, None], at, -1)
  out = decoder.forward(params, config, embedded, positions=positions, remat_policy=remat, rules=rules)
  targets = jnp.asarray(inputs.tokens)[:, 1:]
  return decoder.log_probs(params, config, out.hidden, targets, temperature=temperature, rules=rules)
