"""Patching: what an activation does to a metric, by replacing it (arXiv 2508.15882, section 4).

A model enters as `forward(edit) -> metric`: its `apply` on one input with an edit (`core.tap`), reduced to one number
or an array. Work that no edit changes, such as an encoder's output for patches of the decoder, is done outside of it.

A cell is one place to patch: component × layer × head × position. A sweep computes all cells in one compiled program,
because a cell is data: its indices are traced, and each component adds one `where` to the model.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

ALL = -1  # the head or position of a cell that covers all of them
HEADED = ('q', 'k', 'v', 'z')  # [B, T, heads, H]
SQUARE = ('scores', 'pattern')  # [B, heads, T, S]; of other components, [B, T, D], a cell covers the whole width


@struct.dataclass
class Cells:
  """n places to patch, int32 [n] each: component is an index in the sweep's list; head and position may be ALL."""

  component: np.ndarray
  layer: np.ndarray
  head: np.ndarray
  position: np.ndarray


@dataclasses.dataclass(frozen=True)
class Axes:
  """The grid of a sweep. heads: of components that have them; () patches all at once. positions: likewise, of queries.

  Raises ValueError for a grid without components or layers, and for components of two kinds with heads.
  """

  components: tuple[str, ...]
  layers: tuple[int, ...]
  heads: tuple[int, ...] = ()
  positions: tuple[int, ...] = ()

  def __post_init__(self):
    if not self.components or not self.layers:
      raise ValueError(f'patch: components={self.components}, layers={self.layers}; expected at least one of each')
    whole = [c for c in self.components if 'heads' not in places(c)]
    if self.heads and whole:
      raise ValueError(f'patch: heads={self.heads} of {whole}, which have none; sweep them apart')

  @property
  def shape(self) -> tuple[int, int, int, int]:
    """(components, layers, heads, positions); 1 for an axis that is patched all at once."""
    return (len(self.components), len(self.layers), len(self.heads) or 1, len(self.positions) or 1)

  def cells(self) -> Cells:
    """Every cell, in the order of `shape`."""
    axes = (range(len(self.components)), self.layers, self.heads or (ALL,), self.positions or (ALL,))
    grid = np.meshgrid(*(np.asarray(a, np.int32) for a in axes), indexing='ij')
    return Cells(*(g.reshape(-1) for g in grid))


def places(component: str) -> dict[str, int]:
  """The axes of an activation that are its positions and, where it has them, its heads."""
  site = component.rpartition('.')[2].removeprefix('cross_')
  if site in SQUARE:
    return {'heads': 1, 'positions': 2}
  if site in HEADED:
    return {'positions': 1, 'heads': 2}
  return {'positions': 1}


def cell_edit(components: Sequence[str], values: Mapping[str, jax.Array], cell: Cells, *, alpha=1.0) -> Callable:
  """An `edit` that blends one cell (fields int32 []) of each component's `values` into its activation.

  values: [L, …] by component, as a model keeps them, or what broadcasts to that from the right behind L (zeros
  [L, 1, 1, 1], say). The activation becomes (1 - alpha) x + alpha · value in the cell; with alpha 1, exactly the value.
  """
  index = {name: i for i, name in enumerate(components)}

  def edit(site, layer, x):
    if site not in index:
      return x
    axes = places(site)
    inside = (cell.component == index[site]) & (cell.layer == layer) & _inside(x, cell.position, axes['positions'])
    if 'heads' in axes:
      inside = inside & _inside(x, cell.head, axes['heads'])
    value = jnp.asarray(values[site])[layer].astype(x.dtype)
    blended = jnp.where(alpha == 1, value, (1 - alpha) * x + alpha * value)
    return jnp.where(inside, blended, x)

  return edit


def _inside(x: jax.Array, index, axis: int) -> jax.Array:
  """Bool, broadcasting to x: the entries along `axis` that `index` covers."""
  at = jnp.arange(x.shape[axis])
  inside = (at == index) | (index == ALL)
  others = [a for a in range(x.ndim) if a != axis]
  return jnp.expand_dims(inside, others)


def sweep(
  forward: Callable, axes: Axes, values: Mapping[str, jax.Array], *, alpha: float = 1.0, block: int = 16
) -> jax.Array:
  """The metric of every cell [components, layers, heads, positions, …], one program compiled once.

  forward: edit → metric. values: as in `cell_edit`: activations of a clean run (activation patching), `means` or
  `zeros` (ablation). block: cells computed at a time, which bounds memory; the blocks run one after another.
  Raises ValueError for components without values, and indices outside the activations.
  """
  check(axes, values)
  cells = axes.cells()

  @jax.jit
  def run(cells, values, alpha):
    def one(cell):
      return forward(cell_edit(axes.components, values, cell, alpha=alpha))

    return jax.lax.map(one, cells, batch_size=min(block, len(cells.layer)))

  out = run(cells, {name: values[name] for name in axes.components}, jnp.float32(alpha))
  return out.reshape(*axes.shape, *out.shape[1:])


def check(axes: Axes, values: Mapping[str, jax.Array]) -> None:
  """Raises ValueError for components without values, and indices outside them."""
  missing = [c for c in axes.components if c not in values]
  if missing:
    raise ValueError(f'patch: components {missing} have no values; keep them in the run that the values come from')
  for name in axes.components:
    sizes = np.shape(values[name])
    limits = {'layers': sizes[0]} | {axis: _size(sizes, 1 + at) for axis, at in places(name).items()}
    for axis, limit in limits.items():
      outside = [i for i in getattr(axes, axis) if i < 0 or (limit and i >= limit)]
      if outside:
        raise ValueError(f'patch: {axis} {outside} of {name!r} {sizes}; expected 0 to {(limit or 0) - 1}')


def _size(sizes: tuple[int, ...], axis: int) -> int | None:
  """The size along `axis`, None where values broadcast."""
  return sizes[axis] if axis < len(sizes) and sizes[axis] > 1 else None


def zeros(kept: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
  """Values of zero ablation, which broadcast to the `kept` activations."""
  return {name: jnp.zeros((x.shape[0],) + (1,) * (x.ndim - 1), x.dtype) for name, x in kept.items()}


def means(kept: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
  """Values of mean ablation: over rows and positions of the `kept` activations [L, B, T, …]."""
  return {name: x.mean((1, 1 + places(name)['positions']), keepdims=True) for name, x in kept.items()}


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
      return x + offsets[site][layer] if site in offsets else x

    return forward(edit)

  nothing = {name: jnp.zeros_like(kept[name]) for name in components}
  gradients = jax.grad(metric)(nothing)
  return {name: jnp.sum((values[name] - kept[name]) * gradients[name], -1) for name in components}
