"""Trajectories as arrays for a forward pass, in one of three layouts.

'shared'  a prompt passes through the model once, and its responses continue from its keys and values
'rows'    every trajectory is one row, prompt and response together
'trees'   a group is one row, in which tokens that its responses share pass through the model once

B groups   G trajectories a group   P prompt slots   N response slots   K rows   T row slots   D width
"""

import operator
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from core import decoder, padding
from core.attention.subtrees import BLOCK, Subtrees
from core.mesh import RULES
from core.padding import bucket
from core.past import Prefix
from rl.policy import trees
from rl.policy.trees import Trees

Layout = Literal['shared', 'rows', 'trees']


class Slots(NamedTuple):
  """Sizes of the padded arrays.

  prompt: tokens of a prompt, 0 in rows. response: of a response, or of a whole row. samples: of a group. tiles: images
  of a prompt. row: tokens of a group's responses in a tree, each shared one once. blocks: of keys that a block of
  queries sees in a tree.
  """

  prompt: int
  response: int
  samples: int = 1
  tiles: int = 0
  row: int = 0
  blocks: int = 0

  def bucketed(self) -> 'Slots':
    """Lengths and tiles rounded up to buckets, so that few programs are compiled."""
    prompt = bucket(self.prompt) if self.prompt else 0
    tiles = bucket(self.tiles, 2) if self.tiles > 1 else self.tiles
    row = bucket(self.row) if self.row else 0
    blocks = 0
    if self.blocks:
      blocks = bucket(self.blocks, 1)
    return self._replace(prompt=prompt, response=bucket(self.response), tiles=tiles, row=row, blocks=blocks)


ANY_SLOTS = Slots(prompt=0, response=0, samples=0)  # no size is fixed


@struct.dataclass
class Shared:
  """Prompts that all end in the same column, and the responses to each."""

  tokens: Any  # int32 [B, P]
  positions: Any  # int32 [B, P], -1 at the padding on the left
  said: Any  # int32 [B, G, N], the tokens of the responses
  mask: Any  # bool [B, G, N], the tokens of a response, those of tools included
  pixels: Any = None  # float32 [B, n, S, S, 3]
  tile_tokens: Any = None  # int32 [B, n], image tokens of each tile, 0 at padding; None: all tiles have as many


@struct.dataclass
class Rows:
  """Whole conversations, padded on the right."""

  tokens: Any  # int32 [K, T]
  length: Any  # int32 [K]
  prompt: Any  # int32 [K], tokens of the prompt; only in these do placeholders mean media
  pixels: Any = None  # float32 [K, n, S, S, 3]
  tile_tokens: Any = None  # int32 [K, n]


Inputs = Shared | Rows | Trees


def read(inputs: Inputs) -> Any:
  """The tokens that are embedded for `log_probs`: in rows all but the last, which predicts nothing."""
  if isinstance(inputs, Rows):
    return inputs.tokens[:, :-1]
  return inputs.tokens


def needs(groups: Sequence[Sequence[Any]], layout: Layout) -> Slots:
  """The slots that trajectories need, images aside."""
  samples = max(map(len, groups), default=1)
  trajectories = [t for group in groups for t in group]
  prompts = [len(t.prompt.tokens) for t in trajectories]
  responses = [len(t.tokens) for t in trajectories]
  if layout == 'rows':
    lengths = map(operator.add, prompts, responses)
    return Slots(prompt=0, response=max(lengths, default=1), samples=samples)
  slots = Slots(prompt=max(prompts, default=1), response=max(responses, default=1), samples=samples)
  if layout == 'trees':
    row, blocks = trees.sizes(trees.of_groups(groups))
    return slots._replace(row=row, blocks=blocks)
  return slots


def shared(groups: Sequence[Sequence[Any]], slots: Slots, *, pad_id: int) -> Shared:
  """Groups of trajectories, each with the prompt of its first one; smaller groups are padded with empty responses."""
  prompts = [group[0].prompt.tokens for group in groups]
  lengths = [len(prompt) for prompt in prompts]
  responses = {'samples': slots.samples, 'length': slots.response}
  return Shared(
    tokens=padding.batch(prompts, dtype=np.int32, length=slots.prompt, side='left', fill=pad_id, what='prompt'),
    positions=padding.positions(lengths, slots.prompt, side='left'),
    said=spread(groups, lambda t: t.tokens, dtype=np.int32, **responses),
    mask=spread(groups, lambda t: np.ones_like(t.tokens), dtype=bool, **responses),
  )


def spread(
  groups: Sequence[Sequence[Any]],
  values: Callable[[Any], np.ndarray],
  *,
  samples: int,
  length: int,
  dtype: Any,
) -> np.ndarray:
  """values(t) [n], one for each token of a trajectory's response, as [B, G, N] of G = `samples`, N = `length`.

  0 where there is no token. Raises ValueError if G or N is too small.
  """
  size = {'length': length, 'count': samples, 'dtype': dtype, 'what': 'response'}
  return np.stack([padding.batch([values(t) for t in group], **size) for group in groups])


def rows(trajectories: Sequence[Any], slots: Slots, *, pad_id: int) -> Rows:
  """Each trajectory as a row."""
  whole = [np.concatenate([t.prompt.tokens, t.tokens]) for t in trajectories]
  lengths = [len(row) for row in whole]
  return Rows(
    tokens=padding.batch(whole, dtype=np.int32, length=slots.response, fill=pad_id, what='conversation'),
    length=np.array(lengths, np.int32),
    prompt=np.array([len(t.prompt.tokens) for t in trajectories], np.int32),
  )


def packed(groups: Sequence[Sequence[Any]], slots: Slots, *, pad_id: int) -> Trees:
  """Each group as one row."""
  prompts = [len(group[0].prompt.tokens) for group in groups]
  return trees.batch(trees.of_groups(groups), prompts, **_tree_sizes(slots), pad_id=pad_id)


def _tree_sizes(slots: Slots) -> dict[str, int]:
  return {
    'length': slots.prompt + slots.row,
    'scored': slots.row,
    'samples': slots.samples,
    'response': slots.response,
    'blocks': slots.blocks,
  }


def shapes(groups: int, slots: Slots) -> Shared | Trees:
  """The shapes of inputs, without images: in the layout of trees if `slots` have a row, else in the shared one."""
  if slots.row:
    return trees.shapes(groups, **_tree_sizes(slots))
  responses = (groups, slots.samples, slots.response)
  prompt = jax.ShapeDtypeStruct((groups, slots.prompt), jnp.int32)
  said = jax.ShapeDtypeStruct(responses, jnp.int32)
  mask = jax.ShapeDtypeStruct(responses, jnp.bool_)
  return Shared(tokens=prompt, positions=prompt, said=said, mask=mask)


def visible(groups: int, slots: Slots, triangle: Callable[[int, int | None], float]) -> Callable[[int | None], float]:
  """window → visible pairs of query and key in the shared layout; triangle(length, window): the pairs of one row."""

  def pairs(window: int | None) -> float:
    if slots.row:  # at most the pairs of the blocks that attend
      length = slots.prompt + slots.row
      seen = min(slots.blocks * BLOCK, length)
      return groups * length * seen
    prompt = triangle(slots.prompt, window)
    whole = triangle(slots.prompt + slots.response, window)
    responses = slots.samples * (whole - prompt)
    return groups * (prompt + responses)

  return pairs


def place(values: np.ndarray, groups: Sequence[Sequence[Any]], layout: Layout, slots: Slots) -> np.ndarray:
  """Values of response tokens [B, G, N], or of responses [B, G, 1], in the layout of `log_probs`' output.

  [B, G, N or 1] in the shared layout and in trees, [K, T-1 or 1] in rows, 0 at tokens of the prompt.
  """
  if layout != 'rows':
    return values
  trajectories = _each(groups)
  if values.shape[-1] == 1:
    return np.stack([values[b, g] for b, g, _ in trajectories])
  out = np.zeros((len(trajectories), slots.response - 1), values.dtype)
  for row, (b, g, t) in zip(out, trajectories):
    row[_in_row(t)] = values[b, g, _in_response(t)]
  return out


def lift(
  values: np.ndarray, groups: Sequence[Sequence[Any]], layout: Layout, shape: tuple[int, int, int]
) -> np.ndarray:
  """The inverse of `place`: values of response tokens as an array of `shape` [B, G, N], 0 where there is none."""
  if layout != 'rows':
    return values
  out = np.zeros(shape, values.dtype)
  for row, (b, g, t) in zip(values, _each(groups)):
    out[b, g, _in_response(t)] = row[_in_row(t)]
  return out


def _each(groups: Sequence[Sequence[Any]]) -> list[tuple[int, int, Any]]:
  """(group, place in it, trajectory) of all trajectories, in the order of rows."""
  return [(b, g, t) for b, group in enumerate(groups) for g, t in enumerate(group)]


def _in_response(t: Any) -> slice:
  """The tokens of a response that have a log-probability in rows: all but the first one of a row without a prompt."""
  first = 0 if len(t.prompt.tokens) else 1
  return slice(first, len(t.tokens))


def _in_row(t: Any) -> slice:
  """The place of the response in a row's log-probabilities."""
  first = len(t.prompt.tokens) - 1
  return slice(max(first, 0), first + len(t.tokens))


def log_probs(
  params: decoder.Params,
  config: decoder.Config,
  inputs: Shared | Rows | Trees,
  embedded: jax.Array,
  *,
  temperature: float = 1.0,
  remat: str = 'none',
  rules: dict = RULES,
) -> tuple[jax.Array, jax.Array]:
  """(log-probability, entropy) float32 [B, G, N] or [K, T-1] under a decoder.

  embedded: [B, P, D] of the prompts, [B, T, D] of trees, or [K, T-1, D] of all tokens of rows but the last, media
  included.
  """
  scores = {Shared: _shared_log_probs, Rows: _row_log_probs, Trees: _tree_log_probs}
  score = scores[type(inputs)]
  return score(params, config, inputs, embedded, temperature=temperature, remat=remat, rules=rules)


def _shared_log_probs(params, config, inputs: Shared, embedded, *, temperature, remat, rules):
  b, g, n = inputs.said.shape
  said = inputs.said.reshape(b * g, n)
  mask = inputs.mask.reshape(b * g, n)
  options = {'remat_policy': remat, 'rules': rules}
  capacity = inputs.tokens.shape[1]
  prompt = decoder.forward(params, config, embedded, positions=inputs.positions, cache=capacity, **options)
  lengths = inputs.positions.max(-1, keepdims=True) + 1
  start = jnp.repeat(lengths, g, 0)
  positions = jnp.where(mask, start + jnp.arange(n), -1)
  # All N tokens, although the output at the last one is unused: a mesh divides N, and rarely N - 1.
  x = decoder.embed(params, said, rules)
  rest = decoder.forward(params, config, x, positions=positions, cache=Prefix(prompt.cache), **options)
  last = jnp.repeat(prompt.hidden[:, -1:], g, 0)  # predicts the first token of each response
  hidden = jnp.concatenate([last, rest.hidden[:, :-1]], 1)
  pair = decoder.log_probs(params, config, hidden, said, temperature=temperature, rules=rules)
  return tuple(x.reshape(b, g, n) for x in pair)


def _row_log_probs(params, config, inputs: Rows, embedded, *, temperature, remat, rules):
  at = jnp.arange(inputs.tokens.shape[1] - 1)
  length = jnp.asarray(inputs.length)[:, None]
  positions = jnp.where(at < length, at, -1)
  out = decoder.forward(params, config, embedded, positions=positions, remat_policy=remat, rules=rules)
  targets = jnp.asarray(inputs.tokens)[:, 1:]
  return decoder.log_probs(params, config, out.hidden, targets, temperature=temperature, rules=rules)


def _tree_log_probs(params, config, inputs: Trees, embedded, *, temperature, remat, rules):
  packed_trees = Subtrees(inputs.until, inputs.blocks)
  options = {'remat_policy': remat, 'rules': rules}
  out = decoder.forward(params, config, embedded, positions=inputs.positions, subtrees=packed_trees, **options)
  source = jnp.asarray(inputs.source)[..., None]
  hidden = jnp.take_along_axis(out.hidden, source, 1)
  pair = decoder.log_probs(params, config, hidden, inputs.target, temperature=temperature, rules=rules)
  # A token that several leaves share is gathered for each: its gradient is their sum, as in plain rows.
  leaves = inputs.index.reshape(len(inputs.index), -1)
  return tuple(jnp.take_along_axis(x, leaves, 1).reshape(inputs.index.shape) for x in pair)
