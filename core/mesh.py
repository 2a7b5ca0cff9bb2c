"""Meshes, the table that maps logical axes to mesh axes, and arrays over several processes.

Axes of every mesh: `data` (batch and FSDP), `expert` (experts; also batch outside them), `seq` (time), `model`
(tensor parallel). Arrays are global; a weight's placement follows from its `Spec.axes` through RULES.

Between host and devices, whatever the number of processes:
  to_global, interleave     host rows of each process → one global array
  gather                    host rows of each process → the rows of all, on every host
  to_local                  one global array → a host copy of all of it
  sum_over_processes        numbers of each process (metrics, counts) → their sums, exact in float64
  process_local             all rows → this process's
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from core.launch.fields import field

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
  'rows': ('data', 'expert', 'seq', 'model'),  # of logits to draw from: a row's whole vocabulary on one device
}


@dataclasses.dataclass(frozen=True)
class Shape:
  """Sizes of a mesh's axes, for configs: `make(**dataclasses.asdict(shape))`. data=-1 takes what the others leave."""

  data: int = field(-1, 'devices over which the batch and, in training, the weights are divided; -1: all others')
  expert: int = field(1, 'devices over which experts are divided')
  seq: int = field(1, 'devices over which the time axis is divided')
  model: int = field(1, 'devices over which heads, hidden units and the vocabulary are divided')


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
    raise ValueError(
      f'mesh data={data} expert={expert} seq={seq} model={model} needs {needs} devices; there are {devices.size}'
    )
  if devices.ndim == 1 and devices.size > 1 and devices[0].platform == 'tpu':
    # Neighbours in an axis are neighbours in the torus; an axis may be a part of one of the torus's.
    devices = mesh_utils.create_device_mesh(shape, devices.tolist(), allow_split_physical_axes=True)
  return Mesh(devices.reshape(shape), AXES, axis_types=(jax.sharding.AxisType.Auto,) * 4)


def of(tree: Any) -> Mesh:
  """The mesh that holds a tree's arrays; for arrays on one device or on the host, a mesh of one device."""
  place = getattr(jax.tree.leaves(tree)[0], 'sharding', None)
  if isinstance(place, NamedSharding):
    return place.mesh
  return make(devices=jax.devices()[:1] if place is None else list(place.device_set))


@dataclasses.dataclass(frozen=True)
class Share:
  """One of `count` equal meshes, each over the devices of a group of neighbouring processes.

  mesh: this process's. whole: all of them, concatenated on `data`. index: which one this is.
  """

  mesh: Mesh
  whole: Mesh
  index: int = 0
  count: int = 1


def groups(devices: Iterable, processes: int, **shape: int) -> list[Mesh]:
  """One mesh of `shape` (as in `make`) for each group of `processes` neighbouring processes.

  Raises ValueError when the processes do not divide into such groups, or the sizes do not fit a group's devices.
  """
  devices = sorted(devices, key=lambda d: d.process_index)
  total = len({d.process_index for d in devices})
  if processes < 1 or total % processes:
    raise ValueError(f'{total} processes do not divide into groups of {processes}')
  return [
    make(**shape, devices=list(group))
    for _, group in itertools.groupby(devices, key=lambda d: d.process_index // processes)
  ]


def share(processes: int, **shape: int) -> Share:
  """This process's mesh among the `groups` of all devices. Raises ValueError as `groups` does."""
  meshes = groups(jax.devices(), processes, **shape)
  whole = Mesh(np.concatenate([m.devices for m in meshes]), AXES, axis_types=meshes[0].axis_types)
  index = jax.process_index() // processes
  return Share(meshes[index], whole, index, len(meshes))


def physical(axes: tuple[str | None, ...], rules=RULES) -> PartitionSpec:
  """The `PartitionSpec` of logical `axes`. Raises ValueError when two dimensions claim one mesh axis."""
  spec = [rules.get(a) for a in axes]
  used = [m for s in spec if s is not None for m in ((s,) if isinstance(s, str) else s)]
  if len(used) != len(set(used)):
    raise ValueError(f'{axes} puts two dimensions on one mesh axis: {spec}')
  return PartitionSpec(*spec)


def partition(shape: tuple[int, ...], axes: tuple[str | None, ...], mesh: Mesh, rules=RULES) -> PartitionSpec:
  """The `PartitionSpec` of an array of `shape` with logical `axes`; mesh axes that do not divide are dropped."""

  def fit(size, entry):
    kept = []
    for axis in (entry,) if isinstance(entry, str) else entry or ():
      if size % mesh.shape[axis] == 0:
        kept.append(axis)
        size //= mesh.shape[axis]
    return tuple(kept) or None

  return PartitionSpec(*(fit(n, s) for n, s in zip(shape, physical(axes, rules))))


def sharding(shape: tuple[int, ...], axes: tuple[str | None, ...], mesh: Mesh, rules=RULES) -> NamedSharding:
  """The sharding on `mesh` of an array of `shape` with logical `axes`."""
  return NamedSharding(mesh, partition(shape, axes, mesh, rules))


def shardings(spec: Any, mesh: Mesh, rules=RULES) -> Any:
  """The tree of a model's `spec` as shardings."""
  return jax.tree.map(lambda s: sharding(s.shape, s.axes, mesh, rules), spec)


def constrain(x: jax.Array, axes: tuple[str | None, ...], rules=RULES) -> jax.Array:
  """Constrains an activation's sharding under `jax.set_mesh(mesh)`; returns it unchanged without a mesh."""
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty:
    return x
  return jax.lax.with_sharding_constraint(x, partition(x.shape, axes, mesh, rules))


def batch_sharding(x: Any, mesh: Mesh, rules=RULES) -> NamedSharding:
  """A batch array's placement: its first dimension over the batch axes."""
  return sharding(x.shape, ('batch',) + (None,) * (x.ndim - 1), mesh, rules)


def to_global(batch: Any, mesh: Mesh, rules=RULES) -> Any:
  """Host arrays as global ones; each process passes an equal number of rows, in process order."""

  def place(x):
    x = np.asarray(x)
    whole = jax.ShapeDtypeStruct((x.shape[0] * jax.process_count(), *x.shape[1:]), x.dtype)
    target = batch_sharding(whole, mesh, rules)
    if jax.process_count() == 1:
      return jax.device_put(x, target)
    if _rows_disjoint(target, whole.shape):
      return jax.make_array_from_process_local_data(target, x, whole.shape)
    return _scatter(gather(x), target)

  return jax.tree.map(place, batch)


def interleave(batch: Any, rows: range, mesh: Mesh, rules=RULES) -> Any:
  """Rows `rows` of a batch whose rows alternate between the processes, as global arrays.

  Row i of process p is row i · processes + p of the batch. `rows` may be fewer than the processes.
  """
  among = jax.process_count()
  first, last = rows.start // among, -(-rows.stop // among)

  def place(turns):
    turns = turns.reshape(among, last - first, *turns.shape[1:])
    whole = np.swapaxes(turns, 0, 1).reshape(-1, *turns.shape[2:])[rows.start - first * among :][: len(rows)]
    return _scatter(whole, batch_sharding(whole, mesh, rules))

  return jax.tree.map(place, gather(jax.tree.map(lambda x: x[first:last], batch)))


def _scatter(whole: np.ndarray, target: NamedSharding) -> jax.Array:
  """A host array that every process holds, as a global array."""
  return jax.make_array_from_callback(whole.shape, target, lambda part: whole[part])


def _rows_disjoint(target: NamedSharding, shape: tuple[int, ...]) -> bool:
  """Whether no two processes' devices hold the same rows."""
  rows = {d.process_index: set() for d in target.mesh.devices.flat}
  for device, part in target.devices_indices_map(shape).items():
    rows[device.process_index].update(range(*part[0].indices(shape[0])))
  return sum(map(len, rows.values())) == shape[0]


def processes(mesh: Mesh | None = None) -> list[int]:
  """Indices of the processes whose devices are in `mesh`; of all processes without one."""
  return list(range(jax.process_count())) if mesh is None else sorted({d.process_index for d in mesh.devices.flat})


def process_local(rows: Sequence, mesh: Mesh | None = None) -> Sequence:
  """This process's slice of a batch's rows, as `to_global` takes it; the processes are those of `mesh`, in order.

  Raises ValueError when the number of rows is not a multiple of the number of processes.
  """
  among = processes(mesh)
  size, rest = divmod(len(rows), len(among))
  if rest:
    raise ValueError(f'{len(rows)} rows are not a multiple of {len(among)} processes')
  at = among.index(jax.process_index())
  return rows[at * size : (at + 1) * size]


def gather(batch: Any, mesh: Mesh | None = None) -> Any:
  """The rows of all processes of `mesh` (of all without one) as host arrays; the inverse of `process_local`.

  Every process passes the same shapes. For one value a process (a length, a flag), pass it as one row.
  """
  among = processes(mesh)
  if len(among) == 1:
    return jax.tree.map(np.asarray, batch)
  devices = sorted(jax.devices() if mesh is None else mesh.devices.flat, key=lambda d: d.process_index)
  line = Mesh(np.array(devices).reshape(len(among), -1), ('process', 'device'))
  rows = NamedSharding(line, PartitionSpec('process'))
  whole = jax.tree.map(lambda x: jax.make_array_from_process_local_data(rows, np.asarray(x)), batch)
  with jax.set_mesh(line):
    return jax.tree.map(np.asarray, _replicate(line)(whole))


def sum_over_processes(values: Any, mesh: Mesh | None = None) -> Any:
  """The sum over the processes of each leaf (numbers or arrays), in float64: for metrics and counts."""

  def total(x):
    own = np.asarray(x, np.float64)
    # Devices hold 32-bit numbers, so the bits of a float64 travel as integers.
    bits = np.atleast_1d(own).view(np.uint32)[None]
    return gather(bits, mesh).view(np.float64).sum(0).reshape(own.shape)

  return jax.tree.map(total, values)


@functools.cache
def _replicate(mesh: Mesh):
  return jax.jit(lambda x: x, out_shardings=NamedSharding(mesh, PartitionSpec()))


def local_shard(x: jax.Array, home: Mesh) -> jax.Array:
  """The shards of x on the devices of `home`, as an array of its own; copies nothing.

  `home` is one of several meshes concatenated on `data` into x's mesh; x must not be sharded over `data`.
  """
  place = NamedSharding(home, x.sharding.spec)
  return jax.make_array_from_single_device_arrays(x.shape, place, [s.data for s in x.addressable_shards])


def to_local(x: jax.Array | np.ndarray) -> np.ndarray:
  """A host copy of all of a global array. Every process must call it if the array spans several."""
  if isinstance(x, np.ndarray) or x.is_fully_addressable or x.is_fully_replicated:
    return np.asarray(x)
  with jax.set_mesh(x.sharding.mesh):
    return np.asarray(_replicate(x.sharding.mesh)(x))


def start(coordinator: str | None = None, processes: int | None = None, process: int | None = None) -> None:
  """Starts `jax.distributed` (idempotent): from the environment on Cloud TPU, GKE and Slurm, else from arguments.

  Call before anything touches a device.
  """
  if not jax.distributed.is_initialized():
    jax.distributed.initialize(coordinator, processes, process)


def barrier(name: str) -> None:
  """Barrier over all processes; `name` tells different barriers apart."""
  if jax.process_count() > 1:
    from jax.experimental import multihost_utils

    multihost_utils.sync_global_devices(name)
