"""Meshes, and the one table that maps what a dimension means to where it lives.

Axes of every mesh: `data` (batch and FSDP), `expert` (experts; also batch outside them), `seq` (time), `model`
(tensor parallel). Arrays are global; a weight's placement follows from its `Spec.axes` through RULES.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

AXES = ('data', 'expert', 'seq', 'model')

RULES: dict[str, str | tuple[str, ...] | None] = {
    'batch': ('data', 'expert'),
    'time': 'seq',
    'embed': ('data', 'expert'),  # FSDP: the width of dense weights is spread over the batch axes
    'expert_embed': 'data',  # the expert axis already splits `experts`
    'experts': 'expert',
    'heads': 'model',
    'attn_heads': ('model', 'seq'),  # of activations: attention needs the whole length, so `seq` splits heads there
    'kv_heads': 'model',
    'mlp': 'model',
    'vocab': 'model',
    'vision': ('data', 'expert'),
    'tiles': ('data', 'expert', 'seq', 'model'),  # a vision tower computes each tile whole, on one device
}


@dataclasses.dataclass(frozen=True)
class Shape:
  """Sizes of a mesh's axes, for configs: `make(**dataclasses.asdict(shape))`. data=-1 takes what the others leave."""

  data: int = -1
  expert: int = 1
  seq: int = 1
  model: int = 1


def make(*, data: int = -1, expert: int = 1, seq: int = 1, model: int = 1, devices=None) -> Mesh:
  """A mesh over `devices` (all, by default); `data=-1` takes what the other axes leave.

  Raises ValueError when the sizes do not multiply to the number of devices.
  """
  devices = np.asarray(jax.devices() if devices is None else devices)
  rest = expert * seq * model
  if data == -1 and devices.size % rest == 0:
    data = devices.size // rest
  shape = (data, expert, seq, model)
  if min(shape) < 1 or math.prod(shape) != devices.size:
    needs = f'a multiple of {rest}' if data == -1 else math.prod(shape)
    raise ValueError(f'mesh data={data} expert={expert} seq={seq} model={model} needs {needs} devices; '
                     f'there are {devices.size}')
  if devices.ndim == 1 and devices.size > 1 and devices[0].platform == 'tpu':
    # Neighbours in an axis are neighbours in the torus; an axis may be a part of one of the torus's.
    devices = mesh_utils.create_device_mesh(shape, devices.tolist(), allow_split_physical_axes=True)
  return Mesh(devices.reshape(shape), AXES, axis_types=(jax.sharding.AxisType.Auto,) * 4)


def physical(axes: tuple[str | None, ...], rules=RULES) -> PartitionSpec:
  """The `PartitionSpec` of logical `axes`. Raises ValueError when two dimensions claim one mesh axis."""
  spec = [rules.get(a) for a in axes]
  used = [m for s in spec if s is not None for m in ((s,) if isinstance(s, str) else s)]
  if len(used) != len(set(used)):
    raise ValueError(f'{axes} puts two dimensions on one mesh axis: {spec}')
  return PartitionSpec(*spec)


def _divisible(spec: PartitionSpec, shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
  """`spec` with each mesh axis dropped that does not divide its dimension: such a dimension is replicated."""
  def fit(size, entry):
    kept = []
    for axis in (entry,) if isinstance(entry, str) else entry or ():
      if size % mesh.shape[axis] == 0:
        kept.append(axis)
        size //= mesh.shape[axis]
    return tuple(kept) or None
  return PartitionSpec(*(fit(n, s) for n, s in zip(shape, spec)))


def sharding(shape: tuple[int, ...], axes: tuple[str | None, ...], mesh: Mesh, rules=RULES) -> NamedSharding:
  """Where an array of `shape` with logical `axes` lives on `mesh`."""
  return NamedSharding(mesh, _divisible(physical(axes, rules), shape, mesh))


def shardings(spec: Any, mesh: Mesh, rules=RULES) -> Any:
  """The tree of a model's `spec` as shardings."""
  return jax.tree.map(lambda s: sharding(s.shape, s.axes, mesh, rules), spec)


def constrain(x: jax.Array, axes: tuple[str | None, ...], rules=RULES) -> jax.Array:
  """Pins an activation's layout under `jax.set_mesh(mesh)`; without a mesh there is nothing to pin."""
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty:
    return x
  return jax.lax.with_sharding_constraint(x, _divisible(physical(axes, rules), x.shape, mesh))


def batch_sharding(x: Any, mesh: Mesh, rules=RULES) -> NamedSharding:
  """A batch array's placement: its first dimension over the batch axes."""
  return sharding(x.shape, ('batch',) + (None,) * (x.ndim - 1), mesh, rules)


def to_global(batch: Any, mesh: Mesh, rules=RULES) -> Any:
  """Host arrays as global ones. Each process passes its own rows; together they are the whole batch, in order."""
  def place(x):
    x = np.asarray(x)
    if jax.process_count() == 1:
      return jax.device_put(x, batch_sharding(x, mesh, rules))
    rows = x.shape[0] * jax.process_count()
    whole = jax.ShapeDtypeStruct((rows, *x.shape[1:]), x.dtype)
    return jax.make_array_from_process_local_data(batch_sharding(whole, mesh, rules), x, whole.shape)
  return jax.tree.map(place, batch)


def own(rows: Sequence) -> Sequence:
  """This process's share of the rows of a batch, as `to_global` takes them.

  Raises ValueError when the processes do not divide them.
  """
  share, rest = divmod(len(rows), jax.process_count())
  if rest:
    raise ValueError(f'{len(rows)} rows are not a multiple of {jax.process_count()} processes')
  return rows[jax.process_index() * share:(jax.process_index() + 1) * share]


def to_local(x: jax.Array | np.ndarray) -> np.ndarray:
  """A global array as this process's host copy of the whole of it."""
  if isinstance(x, np.ndarray) or x.is_fully_addressable:
    return np.asarray(x)
  from jax.experimental import multihost_utils
  return np.asarray(multihost_utils.process_allgather(x, tiled=True))


def start(coordinator: str | None = None, processes: int | None = None, process: int | None = None) -> None:
  """Starts `jax.distributed` (idempotent): from the environment on Cloud TPU, GKE and Slurm, else from arguments.

  Call before anything touches a device.
  """
  if not jax.distributed.is_initialized():
    jax.distributed.initialize(coordinator, processes, process)


def together(name: str) -> None:
  """Returns when all processes have come here; `name` tells the places apart."""
  if jax.process_count() > 1:
    from jax.experimental import multihost_utils
    multihost_utils.sync_global_devices(name)
