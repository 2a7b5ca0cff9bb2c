"""Places to patch: cells of a grid component × layer × head × position, and the edit of one cell as data.

L layers   B rows   T tokens   D width   H head size   n cells
"""

import dataclasses
from collections.abc import Mapping

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

  def take(self, rows: np.ndarray) -> 'Cells':
    """The cells of those rows, int [m]."""
    return jax.tree.map(lambda x: x[rows], self)


@dataclasses.dataclass(frozen=True)
class Axes:
  """The grid of a sweep. heads: of components that have them; positions: of queries; () patches all of them at once.

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
    heads = len(self.heads) or 1
    positions = len(self.positions) or 1
    return len(self.components), len(self.layers), heads, positions

  def cells(self) -> Cells:
    """Every cell, in the order of `shape`."""
    components = range(len(self.components))
    axes = (components, self.layers, self.heads or (ALL,), self.positions or (ALL,))
    indices = [np.asarray(axis, np.int32) for axis in axes]
    grid = np.meshgrid(*indices, indexing='ij')
    return Cells(*(g.reshape(-1) for g in grid))


def places(component: str) -> dict[str, int]:
  """The axes of an activation that are its positions and, where it has them, its heads."""
  _, _, name = component.rpartition('.')
  site = name.removeprefix('cross_')
  if site in SQUARE:
    return {'heads': 1, 'positions': 2}
  if site in HEADED:
    return {'positions': 1, 'heads': 2}
  return {'positions': 1}


@struct.dataclass
class CellEdit:
  """An edit of `core.tap` that blends one cell of each component's `values` into its activation.

  values: [L, …] by component, as a model keeps them, or what broadcasts to that from the right behind L (zeros
  [L, 1, 1, 1], say). The activation becomes (1 - alpha) x + alpha · value in the cell; with alpha 1, exactly the value.
  All but the names are arrays, so one program computes any cell.
  """

  components: tuple[str, ...] = struct.field(pytree_node=False)
  values: Mapping[str, jax.Array]
  cell: Cells  # fields int32 []
  alpha: jax.Array

  def __call__(self, site: str, layer, x: jax.Array) -> jax.Array:
    """x as edited, if the site is among the components."""
    if site not in self.components:
      return x
    is_component = self.cell.component == self.components.index(site)
    is_layer = self.cell.layer == layer
    inside = is_component & is_layer & self._inside(site, x)
    values = jnp.asarray(self.values[site])
    value = values[layer].astype(x.dtype)
    blended = (1 - self.alpha) * x + self.alpha * value
    is_whole = self.alpha == 1
    replaced = jnp.where(is_whole, value, blended).astype(x.dtype)
    return jnp.where(inside, replaced, x)

  def alone(self) -> 'CellEdit':
    """The edit of activations that are cut to the cell's position: [B, 1, …] along their positions."""

    def cut(site: str, x: jax.Array) -> jax.Array:
      axis = 1 + places(site)['positions']
      if _size(x.shape, axis) is None:
        return x
      return jax.lax.dynamic_slice_in_dim(x, self.cell.position, 1, axis)

    values = {site: cut(site, jnp.asarray(x)) for site, x in self.values.items()}
    first = jnp.zeros_like(self.cell.position)
    return self.replace(values=values, cell=self.cell.replace(position=first))

  def _inside(self, site: str, x: jax.Array) -> jax.Array:
    """Bool, broadcasting to x: the heads and positions that the cell covers."""
    axes = places(site)
    inside = _covered(x, self.cell.position, axes['positions'])
    if 'heads' in axes:
      inside = inside & _covered(x, self.cell.head, axes['heads'])
    return inside


def _covered(x: jax.Array, index, axis: int) -> jax.Array:
  """Bool, broadcasting to x: the entries along `axis` that `index` covers."""
  at = jnp.arange(x.shape[axis])
  inside = (at == index) | (index == ALL)
  others = [a for a in range(x.ndim) if a != axis]
  return jnp.expand_dims(inside, others)


def check(axes: Axes, values: Mapping[str, jax.Array]) -> None:
  """Raises ValueError for components without values, and indices outside them."""
  missing = [c for c in axes.components if c not in values]
  if missing:
    raise ValueError(f'patch: components {missing} have no values; keep them in the run that the values come from')
  for name in axes.components:
    sizes = np.shape(values[name])
    limits = {'layers': sizes[0]}
    for axis, at in places(name).items():
      limits[axis] = _size(sizes, 1 + at)
    for axis, limit in limits.items():
      indices = getattr(axes, axis)
      outside = [i for i in indices if i < 0 or (limit and i >= limit)]
      if outside:
        raise ValueError(f'patch: {axis} {outside} of {name!r} {sizes}; expected 0 to {(limit or 0) - 1}')


def _size(sizes: tuple[int, ...], axis: int) -> int | None:
  """The size along `axis`, None where values broadcast."""
  if axis < len(sizes) and sizes[axis] > 1:
    return sizes[axis]
  return None
