"""Taps: where a model lets you look at an activation or change it.

Every `apply` takes `edit(site, layer, x) -> x`, called at each site, and `keep`, the names of the sites to return, or
`Keep`s, which choose layers and positions too. A site is a point of a block, in the order of `SITES`:

  resid_in, attn_in, attn_out, mlp_in, mlp_out, resid_out   [B, T, D]
  q, k, v, z          [B, T, heads, H]: as they enter attention (after rotary positions), and its result by head
  scores, pattern     float32 [B, N, T, S]: before and after the softmax; a sink is in neither

Models add `embed` (layer 0, what enters the first block) and `final` (the last layer, after the final norm), both
without a layer axis when kept. A model with several stacks prefixes the names.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from core.params import stack, walk
from core.remat import remat, unroll

ATTENTION = ('scores', 'pattern')  # these need attention that computes them whole
SITES = ('resid_in', 'attn_in', 'q', 'k', 'v', *ATTENTION, 'z', 'attn_out', 'mlp_in', 'mlp_out', 'resid_out')
MODEL_SITES = ('embed', *SITES, 'final')


@dataclasses.dataclass(frozen=True)
class Keep:
  """A site with the layers and positions to keep of it; None keeps all of them.

  layers: 0-based, in the order to return. positions: indices of tokens (of queries in `scores` and `pattern`).
  Raises ValueError for positions of keys and values, which belong to no query.
  """

  site: str
  layers: tuple[int, ...] | None = None
  positions: tuple[int, ...] | None = None

  def __post_init__(self):
    if self.positions is None:
      return
    if _base(self.site) in ('k', 'v'):
      raise ValueError(f'keep {self.site!r}: positions={self.positions} choose queries; keys and values are kept whole')


def site_of(keep: str | Keep) -> str:
  """The name of the site that one entry of `keep` asks for."""
  if isinstance(keep, Keep):
    return keep.site
  return keep


def _base(site: str) -> str:
  """The site without the prefix of its stack, nor that of cross-attention."""
  _, _, name = site.rpartition('.')
  return name.removeprefix('cross_')


def _is_in_stack(site: str, prefix: str) -> bool:
  """Whether a site with a layer axis is one of the stack with this prefix; the stack may have parts of its own."""
  if not prefix and '.' in site:
    return False
  return site.startswith(prefix) and _base(site) in SITES


def check(keep, sites=SITES) -> None:
  """Raises ValueError when `keep` names a site the model does not have."""
  names = map(site_of, keep)
  unknown = [name for name in names if name not in sites]
  if unknown:
    raise ValueError(f'keep={unknown}: unknown site; expected some of {list(sites)}')


def as_argument(edit: Callable | None) -> Any:
  """The edit as an argument of a jitted function.

  An edit that is a pytree (a `flax.struct` with `__call__`) is passed as its arrays, so other values of them do not
  recompile. A plain function is compiled in: each new function compiles once.
  """
  is_function = jax.tree_util.all_leaves([edit])
  if is_function:
    return jax.tree_util.Partial(edit)
  return edit


class Tap:
  """The taps of one layer: `tap(site, x)` edits x, and records it in `kept` if `keep` asks for it."""

  def __init__(self, edit: Callable | None, keep: Sequence[str | Keep], layer, prefix: str = ''):
    self._edit = edit
    self._layer = layer
    self._prefix = prefix
    self._keep = {site_of(k): k for k in keep}
    self.kept: dict[str, jax.Array] = {}

  def __call__(self, site: str, x: jax.Array) -> jax.Array:
    """x after the edit."""
    site = self._prefix + site
    if self._edit is not None:
      x = self._edit(site, self._layer, x)
    if site in self._keep:
      self.kept[site] = _at_positions(self._keep[site], x)
    return x

  def asks_attention(self, shape: tuple[int, ...]) -> bool:
    """Whether scores or pattern, float32 of `shape` [B, N, T, S], are kept or edited."""
    return any(self._asks(site, shape) for site in ATTENTION)

  def _asks(self, site: str, shape: tuple[int, ...]) -> bool:
    site = self._prefix + site
    if site in self._keep:
      return True
    if self._edit is None:
      return False
    unchanged = []

    def trial(x):
      y = self._edit(site, self._layer, x)
      unchanged.append(y is x)
      return y

    # Computing scores whole is costly, so the edit is traced first: one that returns its argument does not edit.
    scores = jax.ShapeDtypeStruct(shape, jnp.float32)
    jax.eval_shape(trial, scores)
    return not all(unchanged)


def _at_positions(keep: str | Keep, x: jax.Array) -> jax.Array:
  if isinstance(keep, str) or keep.positions is None:
    return x
  is_attention = _base(keep.site) in ATTENTION
  axis = 2 if is_attention else 1
  length = x.shape[axis]
  outside = [p for p in keep.positions if not 0 <= p < length]
  if outside:
    raise ValueError(f'keep {keep.site!r}: positions {outside} are outside 0..{length - 1}')
  index = jnp.asarray(keep.positions, jnp.int32)
  return jnp.take(x, index, axis)


def taps(edit: Callable | None, keep, layer, prefix: str = '') -> tuple[Tap, dict]:
  """`(tap, kept)` for one layer: `tap(site, x)` edits x, and records it in `kept` if `keep` asks for it."""
  tap = Tap(edit, keep, layer, prefix)
  return tap, tap.kept


def walk_keeping(
  layer: Callable,
  keep,
  depth: int,
  x,
  blocks,
  *per_layer,
  prefix: str = '',
  remat_policy: str | None = None,
) -> tuple:
  """`core.params.walk` of a layer that returns (x, (kept, out)): (x, kept [L, …] by site, out).

  Only the chosen layers of a `Keep` are stored. prefix: of this stack's sites; `keep` may name others' too. Raises
  ValueError for a layer that the model does not have. remat_policy: of `core.remat`.
  """
  chosen = _chosen_layers(keep, depth, prefix)
  layer = remat(layer, remat_policy)
  if chosen and not isinstance(blocks, tuple):
    return _scan_keeping(layer, chosen, x, blocks, *per_layer)
  size = unroll(x, remat_policy, depth)
  x, (kept, out) = walk(layer, x, blocks, *per_layer, unroll=size)
  for site in chosen.keys() & kept.keys():
    by_layer = kept[site]
    kept[site] = tuple(by_layer[i] for i in chosen[site])
  stacked = {site: stack(a) for site, a in kept.items()}
  return x, stacked, out


def _chosen_layers(keep, depth: int, prefix: str) -> dict[str, tuple[int, ...]]:
  """The layers of each site of this stack for which `keep` chooses layers."""
  chosen = {}
  for k in keep:
    if not isinstance(k, Keep) or k.layers is None:
      continue
    if not _is_in_stack(k.site, prefix):
      continue
    outside = [i for i in k.layers if not 0 <= i < depth]
    if outside:
      raise ValueError(f'keep {k.site!r}: layers {outside} are outside 0..{depth - 1}')
    chosen[k.site] = k.layers
  return chosen


def _scan_keeping(layer: Callable, chosen: dict, x, blocks, *per_layer) -> tuple:
  """The scan carries one buffer a chosen site, because what a scan returns has an entry for every layer."""
  first = jax.tree.map(lambda a: a[0], (blocks, *per_layer))
  _, (shapes, _) = jax.eval_shape(layer, x, 0, *first)
  own = {site: layers for site, layers in chosen.items() if site in shapes}
  buffers = {}
  for site, layers in own.items():
    one = shapes[site]
    shape = (len(layers), *one.shape)
    buffers[site] = jnp.zeros(shape, one.dtype)

  def step(carry, i, *rest):
    x, buffers = carry
    x, (kept, out) = layer(x, i, *rest)
    fresh = {}
    for site, layers in own.items():
      is_layer = jnp.asarray(layers) == i
      fresh[site] = _put(buffers[site], kept.pop(site), is_layer)
    return (x, fresh), (kept, out)

  (x, buffers), (kept, out) = walk(step, (x, buffers), blocks, *per_layer)
  return x, kept | buffers, out


def _put(buffer: jax.Array, x: jax.Array, chosen: jax.Array) -> jax.Array:
  """The buffer [n, …] with x in the rows where `chosen` [n] is true."""
  count = chosen.shape[0]
  row = jnp.arange(count)
  row = jnp.where(chosen, row, count)  # a row out of bounds is dropped
  return buffer.at[row].set(x[None], mode='drop')
