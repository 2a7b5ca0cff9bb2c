"""Trajectories as arrays for a forward pass, in one of two layouts.

'shared'  a prompt goes through the model once, and its responses continue from its keys and values
'rows'    every trajectory is a whole row, prompt and response in one

B groups   G trajectories a group   P prompt slots   N response slots   K rows   T row slots   D width
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from core import decoder
from core.mesh import RULES
from core.padding import bucket
from core.past import Prefix

Layout = Literal['shared', 'rows']


class Slots(NamedTuple):
  """Sizes of the padded arrays; prompt is 0 in rows, whose `response` is the whole row. tiles: of images, a prompt."""

  prompt: int
  response: int
  tiles: int = 0

  def bucketed(self) -> 'Slots':
    """Rounded up to sizes of which there are few, so that few programs are compiled."""
    prompt = bucket(self.prompt) if self.prompt else 0
    return Slots(prompt, bucket(self.response), bucket(self.tiles, 1) if self.tiles else 0)


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
  return Slots(0, whole) if layout == 'rows' else Slots(prompt, response)


def shared(groups: Sequence[Sequence[Any]], slots: Slots, *, pad_id: int) -> Shared:
  """Groups of trajectories, each group with the prompt of its first; groups that are short get empty responses."""
  size = max(map(len, groups))
  tokens = np.full((len(groups), slots.prompt), pad_id, np.int32)
  positions = np.full(tokens.shape, -1, np.int32)
  said = np.zeros((len(groups), size, slots.response), np.int32)
  mask = np.zeros(said.shape, bool)
  for b, group in enumerate(groups):
    prompt = group[0].prompt.tokens
    n = _fits('a prompt', len(prompt), slots.prompt)
    tokens[b, slots.prompt - n :], positions[b, slots.prompt - n :] = prompt, np.arange(n)
    for g, t in enumerate(group):
      n = _fits('a response', len(t.tokens), slots.response)
      said[b, g, :n], mask[b, g, :n] = t.tokens, True
  return Shared(tokens, positions, said, mask)


def rows(trajectories: Sequence[Any], slots: Slots, *, pad_id: int) -> Rows:
  """Each trajectory as a row."""
  tokens = np.full((len(trajectories), slots.response), pad_id, np.int32)
  length = np.ones(len(trajectories), np.int32)
  for k, t in enumerate(trajectories):
    whole = np.concatenate([t.prompt.tokens, t.tokens])
    length[k] = _fits('a conversation', len(whole), slots.response)
    tokens[k, : length[k]] = whole
  return Rows(tokens, length)


def _fits(what: str, n: int, slots: int) -> int:
  if n > slots:
    raise ValueError(f'{what} has {n} tokens; expected at most {slots}')
  return n


def chosen(groups: Sequence[Sequence[Any]], layout: Layout, slots: Slots) -> tuple[np.ndarray, np.ndarray]:
  """(mask bool, logp float32 as sampled) of the policy's own tokens, each [B, G, N] or [K, T-1] as of `log_probs`."""
  if layout == 'shared':
    shape = (len(groups), max(map(len, groups)), slots.response)
    at = [((b, g), 0, t) for b, group in enumerate(groups) for g, t in enumerate(group)]
  else:
    every = [t for group in groups for t in group]
    shape = (len(every), slots.response - 1)
    at = [((k,), len(t.prompt.tokens) - 1, t) for k, t in enumerate(every)]
  mask, logp = np.zeros(shape, bool), np.zeros(shape, np.float32)
  for index, start, t in at:
    skip = max(-start, 0)  # the first token of a row has no log-probability
    place = (*index, slice(start + skip, start + len(t.tokens)))
    mask[place], logp[place] = t.mask[skip:], np.where(t.mask, t.logp, 0)[skip:]
  return mask, logp


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
