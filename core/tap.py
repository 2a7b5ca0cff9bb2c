"""Taps: where a model lets you look at an activation or change it.

Every `apply` takes `edit(site, layer, x) -> x`, called at each site, and `keep`, the names of sites to hand back, or
`Keep`s, which choose layers and positions too. A site is a point of a block, in the order of `SITES`:

  resid_in, attn_in, attn_out, mlp_in, mlp_out, resid_out   [B, T, D]
  q, k, v, z          [B, T, heads, H]: as they enter attention (after rotary positions), and its result by head
  scores, pattern     float32 [B, N, T, S]: before and after the softmax; a sink is in neither

Models add `embed` (layer 0, what enters the first block) and `final` (the last layer, after the final norm), both
without a layer axis when kept. A model that has several stacks puts a prefix before the names.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from core.params import stack, walk

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
    if self.positions is not None and _base(self.site) in ('k', 'v'):
      raise ValueError(f'keep {self.site!r}: positions={self.positions} choose queries; keys and values are kept whole')


def site_of(keep: str | Keep) -> str:
  """The name of the site that one entry of `keep` asks for."""
  if isinstance(keep, Keep):
    return keep.site
  return keep


def _base(site: str) -> str:
  """The site without the prefix of its stack, nor that of cross-attention."""
  return site.rpartition('.')[2].removeprefix('cross_')


def _is_in_stack(site: str, prefix: str) -> bool:
  """Whether a site with a layer axis is one of the stack with this prefix; the stack may have parts of its own."""
  if not prefix and '.' in site:
    return False
  return site.startswith(prefix) and _base(site) in SITES


def check(keep, sites=SITES) -> None:
  """Raises ValueError when `keep` names a site the model does not have."""
  unknown = [site_of(k) for k in keep if site_of(k) not in sites]
  if unknown:
    raise ValueError(f'keep={unknown}: unknown site; expected some of {list(sites)}')


def as_argument(edit: Callable | None) -> Any:
  """The edit as an argument of a jitted function.

  An edit that is a pytree (a `flax.struct` with `__call__`) enters as its arrays, so that other values of them compile
  nothing. A plain function is compiled in, once a function.
  """
  is_function = jax.tree_util.all_leaves([edit])
  if is_function:
    return jax.tree_util.Partial(edit)
  return edit


class Tap:
  """The taps of one layer: `tap(site, x)` edits x, and puts it in `kept` if it is asked for."""

  def __init__(self, edit: Callable | None, keep: Sequence[str | Keep], layer, prefix: str = ''):
    self._edit = edit
    self._layer = layer
    self._prefix = prefix
    self._keep = {site_of(k): k for k in keep}
    self.kept: dict[str, jax.Array] = {}

  def __call__(self, site: str, x: jax.Array) -> jax.Array:
    """x as edited."""
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
    if site in self._keep or self._edit is None:
      return site in self._keep
    returned = []

    def trial(x):
      y = self._edit(site, self._layer, x)
      returned.append(y is x)
      return y

    # Computing scores whole is costly, so the edit is traced first: one that returns its argument does not edit.
    jax.eval_shape(trial, jax.ShapeDtypeStruct(shape, jnp.float32))
    return not all(returned)


def _at_positions(keep: str | Keep, x: jax.Array) -> jax.Array:
  if isinstance(keep, str) or keep.positions is None:
    return x
  positions = keep.positions
  axis = 2 if _base(keep.site) in ATTENTION else 1
  outside = [p for p in positions if not 0 <= p < x.shape[axis]]
  if outside:
    raise ValueError(f'keep {keep.site!r}: positions {outside} are outside 0..{x.shape[axis] - 1}')
  return jnp.take(x, jnp.asarray(positions, jnp.int32), axis)


def taps(edit: Callable | None, keep, layer, prefix: str = '') -> tuple[Tap, dict]:
  """`(tap, kept)` for one layer: `tap(site, x)` edits x and notes it in `kept` when it is asked for."""
  tap = Tap(edit, keep, layer, prefix)
  return tap, tap.kept


def walk_keeping(layer: Callable, keep, depth: int, x, blocks, *per_layer, prefix: str = '') -> tuple:
  """`core.params.walk` of a layer that returns (x, (kept, out)): (x, kept [L, …] by site, out).

  Only the chosen layers of a `Keep` are stored. prefix: of this stack's sites; `keep` may name others' too. Raises
  ValueError for a layer that the model does not have.
  """
  choices = [k for k in keep if isinstance(k, Keep) and k.layers is not None]
  chosen = {k.site: k.layers for k in choices if _is_in_stack(k.site, prefix)}
  for site, layers in chosen.items():
    outside = [i for i in layers if not 0 <= i < depth]
    if outside:
      raise ValueError(f'keep {site!r}: layers {outside} are outside 0..{depth - 1}')
  if chosen and not isinstance(blocks, tuple):
    return _scan_keeping(layer, chosen, x, blocks, *per_layer)
  x, (kept, out) = walk(layer, x, blocks, *per_layer)
  for site in chosen.keys() & kept.keys():
    kept[site] = tuple(kept[site][i] for i in chosen[site])
  return x, {site: stack(a) for site, a in kept.items()}, out


def _scan_keeping(layer: Callable, chosen: dict, x, blocks, *per_layer) -> tuple:
  """The scan carries one buffer a chosen site, because what a scan returns has an entry for every layer."""
  first = jax.tree.map(lambda a: a[0], (blocks, *per_layer))
  _, (shapes, _) = jax.eval_shape(layer, x, 0, *first)
  own = {site: layers for site, layers in chosen.items() if site in shapes}
  buffers = {}
  for site, layers in own.items():
    one = shapes[site]
    buffers[site] = jnp.zeros((len(layers), *one.shape), one.dtype)

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
  rows = jnp.where(chosen, jnp.arange(count), count)  # a row out of bounds is dropped
  return buffer.at[rows].set(x[None], mode='drop')
