"""Edits of a model's activations by site and layer, and what to replace an activation with."""

import functools
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp

from core.tap import MODEL_SITES

WITHOUT_LAYER = ('embed', 'final')  # one activation a stack
Place = tuple[str, int | None]  # a site and a 0-based layer; None is every layer
Indices = Sequence[int] | None  # None is all of an axis


def edits(
  changes: Mapping[Place, Callable],
  *,
  sites: Sequence[str] = MODEL_SITES,
  depth: int | None = None,
) -> Callable:
  """An `edit` that applies `changes[site, layer](x)` at those sites, and nothing elsewhere.

  layer: 0-based; None is every layer, and is applied before the change of one layer; `embed` and `final`
  take None only. sites, depth: of the model; without a depth, a layer past its last one is not noticed.
  Raises ValueError for a site or a layer that the model does not have.
  """
  for site, layer in changes:
    _check_site(site, sites)
    _check_layer(site, layer, depth)
  one_layer = [place for place in changes if place[1] is not None]

  def edit(site, layer, x):
    if (site, None) in changes:
      change = changes[site, None]
      x = change(x)
    for place in one_layer:
      wanted, at = place
      if wanted == site:
        x = _where_layer(layer, at, changes[place], x)
    return x

  return edit


def _check_site(site: str, sites: Sequence[str]) -> None:
  if site not in sites:
    raise ValueError(f'edits: site {site!r} is unknown; expected one of {list(sites)}')


def _check_layer(site: str, layer: int | None, depth: int | None) -> None:
  if layer is None:
    return
  given = f'edits: layer {layer!r} of {site!r}'
  if site.rpartition('.')[2] in WITHOUT_LAYER:
    raise ValueError(f'{given}; expected None, there is one a stack')
  whole = isinstance(layer, int)
  past = whole and depth is not None and layer >= depth
  if not whole or layer < 0 or past:
    last = 'the last' if depth is None else depth - 1
    raise ValueError(f'{given}; expected 0 to {last}, or None for every layer')


def _where_layer(layer, at: int, change: Callable, x: jax.Array) -> jax.Array:
  """change(x) in layer `at`, x in others; a scanned layer has a traced number."""
  if not isinstance(layer, int):
    changed = change(x)
    return jnp.where(layer == at, changed, x)
  if layer == at:
    return change(x)
  return x


def zero(x: jax.Array) -> jax.Array:
  """Zeros: ablation of the whole activation."""
  return jnp.zeros_like(x)


def mean(x: jax.Array, *, axis: int | tuple[int, ...] = 0) -> jax.Array:
  """The mean over `axis`, the rows by default, in place of each entry: mean ablation."""
  centre = x.mean(axis, keepdims=True)
  everywhere = jnp.broadcast_to(centre, x.shape)
  return everywhere.astype(x.dtype)


def replace(value: jax.Array) -> Callable:
  """A change to `value`, of the activation's shape or one that broadcasts to it."""

  def change(x):
    cast = jnp.asarray(value, x.dtype)
    return jnp.broadcast_to(cast, x.shape)

  return change


def blend(value: jax.Array, alpha: float) -> Callable:
  """A change to (1 - alpha) x + alpha · value, component patching of arXiv 2508.15882."""

  def change(x):
    blended = (1 - alpha) * x + alpha * value
    return blended.astype(x.dtype)

  return change


def at(change: Callable, *, positions: Indices = None, heads: Indices = None) -> Callable:
  """`change` of some positions (axis 1) and heads (axis 2) of q, k, v or z [B, T, N, H]; of positions of [B, T, D].

  Positions count the tokens of a call: a decoding step with a cache has only position 0. Raises ValueError for heads
  of an activation that has none.
  """
  return functools.partial(_change_at, change, positions, heads)


def _change_at(change: Callable, positions: Indices, heads: Indices, x: jax.Array) -> jax.Array:
  if heads is not None and x.ndim != 4:
    given = f'heads={list(heads)} of an activation {x.shape}'
    raise ValueError(f'{given}; expected [batch, time, heads, head size]')
  in_time = _chosen(x, positions, axis=1)
  in_heads = _chosen(x, heads, axis=2)
  changed = change(x)
  return jnp.where(in_time & in_heads, changed, x)


def _chosen(x: jax.Array, indices: Indices, *, axis: int) -> jax.Array:
  """Bool, broadcasting to x: whether each place along `axis` is among `indices`, or all of them for None."""
  if indices is None:
    return jnp.ones((1,) * x.ndim, bool)
  size = x.shape[axis]
  outside = [i for i in indices if not 0 <= i < size]
  if outside:
    last = size - 1
    raise ValueError(f'indices {outside} are outside 0..{last}, axis {axis} of {x.shape}')
  wanted = jnp.asarray(indices, jnp.int32)
  nothing = jnp.zeros(size, bool)
  mask = nothing.at[wanted].set(True)
  others = [a for a in range(x.ndim) if a != axis]
  return jnp.expand_dims(mask, others)
