"""Edits of a model's activations by site and layer, and what to replace an activation with."""

import functools
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp

from core.tap import MODEL_SITES

WITHOUT_LAYER = ('embed', 'final')  # one activation a stack


def edits(
  changes: Mapping[tuple[str, int | None], Callable], *, sites: Sequence[str] = MODEL_SITES, depth: int | None = None
) -> Callable:
  """An `edit` that applies `changes[site, layer](x)` at those sites, and nothing elsewhere.

  layer: 0-based; None is every layer, and is applied before the change of one layer; `embed` and `final`
  take None only. sites, depth: of the model; without a depth, a layer past its last one is not noticed.
  Raises ValueError for a site or a layer that the model does not have.
  """
  for site, layer in changes:
    _check_place(site, layer, sites, depth)

  def edit(site, layer, x):
    if (site, None) in changes:
      x = changes[site, None](x)
    for (wanted, at), change in changes.items():
      if wanted == site and at is not None:
        x = _where_layer(layer, at, change, x)
    return x

  return edit


def _check_place(site: str, layer: int | None, sites: Sequence[str], depth: int | None) -> None:
  if site not in sites:
    raise ValueError(f'edits: site {site!r} is unknown; expected one of {list(sites)}')
  if layer is None:
    return
  if site.rpartition('.')[2] in WITHOUT_LAYER:
    raise ValueError(f'edits: layer {layer!r} of {site!r}; expected None, there is one a stack')
  if not isinstance(layer, int) or layer < 0 or (depth is not None and layer >= depth):
    last = 'the last' if depth is None else depth - 1
    raise ValueError(f'edits: layer {layer!r} of {site!r}; expected 0 to {last}, or None for every layer')


def _where_layer(layer, at: int, change: Callable, x: jax.Array) -> jax.Array:
  """change(x) in layer `at`, x in others; a scanned layer has a traced number."""
  if isinstance(layer, int):
    if layer == at:
      return change(x)
    return x
  return jnp.where(layer == at, change(x), x)


def zero(x: jax.Array) -> jax.Array:
  """Zeros: ablation of the whole activation."""
  return jnp.zeros_like(x)


def mean(x: jax.Array, *, axis: int | tuple[int, ...] = 0) -> jax.Array:
  """The mean over `axis`, the rows by default, in place of each entry: mean ablation."""
  return jnp.broadcast_to(x.mean(axis, keepdims=True), x.shape).astype(x.dtype)


def replace(value: jax.Array) -> Callable:
  """A change to `value`, of the activation's shape or one that broadcasts to it."""
  return lambda x: jnp.broadcast_to(jnp.asarray(value, x.dtype), x.shape)


def blend(value: jax.Array, alpha: float) -> Callable:
  """A change to (1 - alpha) x + alpha · value, component patching of arXiv 2508.15882."""
  return lambda x: ((1 - alpha) * x + alpha * value).astype(x.dtype)


def at(change: Callable, *, positions: Sequence[int] | None = None, heads: Sequence[int] | None = None) -> Callable:
  """`change` of some positions (axis 1) and heads (axis 2) of q, k, v or z [B, T, N, H]; of positions of [B, T, D].

  Positions count the tokens of a call: a decoding step with a cache has only position 0. Raises ValueError for heads
  of an activation that has none.
  """
  return functools.partial(_change_at, change, positions, heads)


def _change_at(change: Callable, positions, heads, x: jax.Array) -> jax.Array:
  if heads is not None and x.ndim != 4:
    raise ValueError(f'heads={list(heads)} of an activation {x.shape}; expected [batch, time, heads, head size]')
  chosen = _chosen(x, positions, 1) & _chosen(x, heads, 2)
  return jnp.where(chosen, change(x), x)


def _chosen(x: jax.Array, indices: Sequence[int] | None, axis: int) -> jax.Array:
  """Bool, broadcasting to x: whether each place along `axis` is among `indices`, or all of them for None."""
  if indices is None:
    return jnp.ones((1,) * x.ndim, bool)
  outside = [i for i in indices if not 0 <= i < x.shape[axis]]
  if outside:
    raise ValueError(f'indices {outside} are outside 0..{x.shape[axis] - 1}, axis {axis} of {x.shape}')
  wanted = jnp.asarray(indices, jnp.int32)
  nothing = jnp.zeros(x.shape[axis], bool)
  mask = nothing.at[wanted].set(True)
  others = [a for a in range(x.ndim) if a != axis]
  return jnp.expand_dims(mask, others)
