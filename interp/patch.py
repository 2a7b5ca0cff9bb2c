"""Patching: what an activation does to a metric, by replacing it (arXiv 2508.15882, section 4).

A model enters as `forward(edit, *inputs) -> metric`: its `apply` with an edit (`core.tap`), reduced to one number or an
array. Work that no edit changes, such as an encoder's output for patches of the decoder, is done outside of it.

A sweep computes component × layer × head × position by one compiled program, because a cell is data: its indices are
traced, and each component adds one `where` to the model.
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from interp.cells import Axes, CellEdit, Cells, check, places

__all__ = ['Axes', 'attribution', 'means', 'sweep', 'zeros']


def sweep(
  forward: Callable,
  axes: Axes,
  values: Mapping[str, jax.Array],
  *inputs: Any,
  alpha: float = 1.0,
  block: int = 16,
  resume: bool = False,
  mesh: Mesh | None = None,
) -> np.ndarray:
  """The metric of every cell [components, layers, heads, positions, …].

  forward: (edit, *inputs) → metric. A function that is hashed by what it does (a module's, or a frozen dataclass with
  `__call__`) is compiled once: later sweeps of the same components, `block` and shapes compile nothing, for any layers,
  heads, positions, values and inputs. values: as in `interp.cells.CellEdit`: activations of a clean run
  (activation patching), `means` or `zeros` (ablation). block: cells computed at a time, which bounds memory.
  resume: forward also takes `start=`, int32 [], the first layer that a cell of the block is in, and need not compute
  the layers before it; blocks are then of one layer each. mesh: the cells of a block are sharded over its `data` axis,
  and the size of a block is rounded up to a multiple of that axis.
  Raises ValueError for components without values, and indices outside the activations.
  """
  check(axes, values)
  cells = axes.cells()
  used = {name: jnp.asarray(values[name]) for name in axes.components}
  out = None
  multiple = 1
  if mesh is not None:
    multiple = mesh.shape['data']
  share = jnp.float32(alpha)
  for rows, size in _blocks(cells, block, resume=resume, multiple=multiple):
    padded = np.resize(rows, size)
    chosen = _placed(cells.take(padded), mesh)
    start = None
    if resume:
      start = jnp.int32(cells.layer[rows[0]])
    metric = _block(forward, axes.components, used, chosen, share, start, inputs)
    metric = np.asarray(metric)
    if out is None:
      out = np.empty((len(cells.layer), *metric.shape[1:]), metric.dtype)
    out[rows] = metric[: len(rows)]
  return out.reshape(*axes.shape, *out.shape[1:])


@functools.partial(jax.jit, static_argnames=('forward', 'components'))
def _block(forward: Callable, components: tuple[str, ...], values, cells: Cells, alpha, start, inputs) -> jax.Array:
  """The metric of each cell of a block."""
  where = {} if start is None else {'start': start}

  def one(cell: Cells):
    edit = CellEdit(components=components, values=values, cell=cell, alpha=alpha)
    return forward(edit, *inputs, **where)

  return jax.vmap(one)(cells)


def _blocks(cells: Cells, block: int, *, resume: bool, multiple: int) -> Iterator[tuple[np.ndarray, int]]:
  """(rows of cells, the size to pad them to), of one size for the whole grid; of one layer each, to resume."""
  groups = [np.arange(len(cells.layer))]
  if resume:
    groups = [np.flatnonzero(cells.layer == layer) for layer in np.unique(cells.layer)]
  longest = max(len(group) for group in groups)
  size = -(-min(block, longest) // multiple) * multiple
  for group in groups:
    for first in range(0, len(group), size):
      yield group[first : first + size], size


def _placed(cells: Cells, mesh: Mesh | None) -> Cells:
  """The cells on their devices."""
  if mesh is None:
    return cells
  return jax.device_put(cells, NamedSharding(mesh, PartitionSpec('data')))


def zeros(kept: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
  """Values of zero ablation, which broadcast to the `kept` activations."""

  def zero(x: jax.Array) -> jax.Array:
    layers, *others = x.shape
    return jnp.zeros((layers, *(1 for _ in others)), x.dtype)

  return {name: zero(x) for name, x in kept.items()}


def means(kept: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
  """Values of mean ablation: over rows and positions of the `kept` activations [L, B, T, …]."""
  means = {}
  for name, x in kept.items():
    positions = 1 + places(name)['positions']
    means[name] = x.mean((1, positions), keepdims=True)
  return means


def attribution(
  forward: Callable, components: Sequence[str], values: Mapping[str, jax.Array], kept: Mapping[str, jax.Array]
) -> dict[str, jax.Array]:
  """First-order effect of patching each entry (attribution patching, arXiv 2310.10348), from one backward pass.

  forward: edit → metric, one number, on the input to be patched, whose activations are `kept` [L, …]. values: as in
  `cell_edit`. Returns (value - activation) · gradient summed over the last axis: [L, B, T] by component, with
  an axis of heads where it has them. Sum over rows and positions for the effect of a larger cell.
  """

  def metric(offsets):
    def edit(site, layer, x):
      if site in offsets:
        return x + offsets[site][layer]
      return x

    return forward(edit)

  nothing = {name: jnp.zeros_like(kept[name]) for name in components}
  gradients = jax.grad(metric)(nothing)
  effects = {}
  for name, gradient in gradients.items():
    change = values[name] - kept[name]
    effects[name] = jnp.sum(change * gradient, -1)
  return effects
