"""Meshes, the table that maps logical axes to mesh axes, and arrays over several processes.

Axes of every mesh: `data` (batch and FSDP), `expert` (experts; also batch outside them), `seq` (time), `model`
(tensor parallel). Arrays are global; a weight's placement follows from its `Spec.axes` through RULES.

Between host and devices, for any number of processes:
  to_global, interleave     host rows of each process → one global array
  gather                    host rows of each process → the rows of all, on every host
  to_local                  one global array → a host copy of the whole
  sum_over_processes        numbers of each process (metrics, counts) → their sums, exact in float64
  process_local             all rows → this process's
"""

import dataclasses
import functools
import itertools
import math
import operator
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
  'embed': ('data', 'expert'),  # FSDP: the width of dense weights is sharded over the batch axes
  'expert_embed': 'data',  # the expert axis already splits `experts`
  'experts': 'expert',
  'heads': 'model',
  'attn_heads': ('model', 'seq'),  # of activations: attention reads the whole length, so there `seq` shards heads
  'kv_heads': 'model',
  'mlp': 'model',
  'vocab': 'model',
  'vision': ('data', 'expert'),
  'tiles': ('data', 'expert', 'seq', 'model'),  # a vision tower computes each tile whole, on one device
  'rows': ('data', 'expert', 'seq', 'model'),  # of logits to sample from: a row's whole vocabulary on one device
}


@dataclasses.dataclass(frozen=True)
class Shape:
  """Sizes of a mesh's axes, for configs: `make(**dataclasses.asdict(shape))`; data=-1 takes the remaining devices."""

  data: int = field(-1, 'devices that share the batch and, in training, the weights; -1: all remaining ones')
  expert: int = field(1, 'devices that share the experts')
  seq: int = field(1, 'devices that share the time axis')
  model: int = field(1, 'devices that share heads, hidden units and the vocabulary')


def make(*, data: int = -1, expert: int = 1, seq: int = 1, model: int = 1, devices=None) -> Mesh:
  """A mesh over `devices` (all, by default); `data=-1` takes the devices that the other axes leave.

  Raises ValueError if the sizes do not multiply to the number of devices.
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
    # Neighbours on a mesh axis become neighbours in the torus; one torus axis may serve several mesh axes.
    devices = mesh_utils.create_device_mesh(shape, devices.tolist(), allow_split_physical_axes=True)
  return Mesh(devices.reshape(shape), AXES, axis_types=(jax.sharding.AxisType.Auto,) * 4)


def abstract(shape: tuple[int, int, int, int] = (1, 1, 1, 1)) -> jax.sharding.AbstractMesh:
  """A mesh of no devices, for counting and for shapes; jax 0.11 would make its axes explicit by default."""
  return jax.sharding.AbstractMesh(shape, AXES, axis_types=(jax.sharding.AxisType.Auto,) * 4)


def of(tree: Any) -> Mesh:
  """The mesh that holds a tree's arrays; for arrays on one device or on the host, a mesh of one device."""
  first, *_ = jax.tree.leaves(tree)
  placement = getattr(first, 'sharding', None)
  if isinstance(placement, NamedSharding):
    return placement.mesh
  if placement is None:
    return make(devices=jax.devices()[:1])
  return make(devices=list(placement.device_set))


@dataclasses.dataclass(frozen=True)
class Share:
  """One of `count` equal meshes, each over the devices of a group of neighbouring processes.

  mesh: this process's. whole: all of them, concatenated on `data`. index: the number of `mesh` among them.
  """

  mesh: Mesh
  whole: Mesh
  index: int = 0
  count: int = 1


def groups(devices: Iterable, processes: int, **shape: int) -> list[Mesh]:
  """One mesh of `shape` (as in `make`) for each group of `processes` neighbouring processes.

  Raises ValueError if the processes do not divide into such groups, or the sizes do not fit a group's devices.
  """
  by_process = _by_process(devices)
  total = len({device.process_index for device in by_process})
  if processes < 1 or total % processes:
    raise ValueError(f'{total} processes do not divide into groups of {processes}')

  def group_of(device) -> int:
    return device.process_index // processes

  grouped = itertools.groupby(by_process, group_of)
  return [make(**shape, devices=list(group)) for _, group in grouped]


def _by_process(devices: Iterable) -> list:
  """The devices in order of their process."""
  return sorted(devices, key=operator.attrgetter('process_index'))


def share(processes: int, **shape: int) -> Share:
  """This process's mesh among the `groups` of all devices. Raises ValueError as `groups` does."""
  meshes = groups(jax.devices(), processes, **shape)
  devices = np.concatenate([mesh.devices for mesh in meshes])
  whole = Mesh(devices, AXES, axis_types=meshes[0].axis_types)
  index = jax.process_index() // processes
  return Share(mesh=meshes[index], whole=whole, index=index, count=len(meshes))


def physical(axes: tuple[str | None, ...], rules=RULES) -> PartitionSpec:
  """The `PartitionSpec` of logical `axes`. Raises ValueError if two dimensions claim one mesh axis."""
  spec = [rules.get(axis) for axis in axes]
  used = list(itertools.chain.from_iterable(map(_mesh_axes, spec)))
  if len(used) != len(set(used)):
    raise ValueError(f'{axes} puts two dimensions on one mesh axis: {spec}')
  return PartitionSpec(*spec)


def _mesh_axes(entry: str | tuple[str, ...] | None) -> tuple[str, ...]:
  """The mesh axes that one entry of RULES, or of a `PartitionSpec`, names."""
  if entry is None:
    return ()
  if isinstance(entry, str):
    return (entry,)
  return entry


def partition(shape: tuple[int, ...], axes: tuple[str | None, ...], mesh: Mesh, rules=RULES) -> PartitionSpec:
  """The `PartitionSpec` of an array of `shape` with logical `axes`; mesh axes that do not divide are dropped."""

  def fit(size, entry):
    kept = []
    for axis in _mesh_axes(entry):
      if size % mesh.shape[axis] == 0:
        kept.append(axis)
        size //= mesh.shape[axis]
    return tuple(kept) or None

  entries = physical(axes, rules)
  return PartitionSpec(*map(fit, shape, entries))


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


def partitioning() -> jax.sharding.AbstractMesh | None:
  """The present mesh if XLA partitions programs over it: of several devices, and not inside `shard_map`; else None."""
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty or mesh.size == 1 or mesh.are_all_axes_manual:
    return None
  return mesh


def platform() -> str:
  """The platform that a program is traced for: that of the present mesh, or without one JAX's default."""
  device = jax.sharding.get_abstract_mesh().abstract_device
  if device is None:
    return jax.default_backend()
  return device.platform


def batch_sharding(x: Any, mesh: Mesh, rules=RULES) -> NamedSharding:
  """A batch array's placement: its first dimension over the batch axes."""
  others = (None,) * (x.ndim - 1)
  return sharding(x.shape, ('batch', *others), mesh, rules)


def to_global(batch: Any, mesh: Mesh, rules=RULES) -> Any:
  """Host arrays as global ones; each process passes an equal number of rows, in process order."""
  count = jax.process_count()

  def place(x):
    x = np.asarray(x)
    rows, *rest = x.shape
    whole = jax.ShapeDtypeStruct((rows * count, *rest), x.dtype)
    target = batch_sharding(whole, mesh, rules)
    if count == 1:
      return jax.device_put(x, target)
    if _rows_disjoint(target, whole.shape):
      return jax.make_array_from_process_local_data(target, x, whole.shape)
    return _scatter(gather(x), target)

  return jax.tree.map(place, batch)


def interleave(batch: Any, rows: range, mesh: Mesh, rules=RULES) -> Any:
  """Rows `rows` of a batch whose rows alternate between the processes, as global arrays.

  Row i of process p is row i · processes + p of the batch. `rows` may be fewer than the processes.
  """
  count = jax.process_count()
  first = rows.start // count
  last = -(-rows.stop // count)
  # A whole round (one row of each process) is gathered; rows of the first and last round may be surplus.
  skipped = rows.start - first * count

  def place(gathered):
    whole = alternating(gathered)[skipped : skipped + len(rows)]
    return _scatter(whole, batch_sharding(whole, mesh, rules))

  local = jax.tree.map(lambda x: x[first:last], batch)
  return jax.tree.map(place, gather(local))


def alternating(gathered: np.ndarray) -> np.ndarray:
  """What `gather` returns, in the order in which row i of process p is row i · processes + p."""
  count = jax.process_count()
  by_process = gathered.reshape(count, len(gathered) // count, *gathered.shape[1:])
  return np.swapaxes(by_process, 0, 1).reshape(gathered.shape)


def _scatter(whole: np.ndarray, target: NamedSharding) -> jax.Array:
  """A host array that every process holds, as a global array."""
  return jax.make_array_from_callback(whole.shape, target, whole.__getitem__)


def _rows_disjoint(target: NamedSharding, shape: tuple[int, ...]) -> bool:
  """Whether no two processes' devices hold the same rows."""
  total = shape[0]
  rows = {device.process_index: set() for device in target.mesh.devices.flat}
  for device, index in target.devices_indices_map(shape).items():
    held = range(*index[0].indices(total))
    rows[device.process_index].update(held)
  return sum(map(len, rows.values())) == total


def processes(mesh: Mesh | None = None) -> list[int]:
  """Indices of the processes whose devices are in `mesh`; of all processes without one."""
  if mesh is None:
    return list(range(jax.process_count()))
  return sorted({device.process_index for device in mesh.devices.flat})


def process_local(rows: Sequence, mesh: Mesh | None = None) -> Sequence:
  """This process's slice of a batch's rows, as `to_global` takes it; the processes are those of `mesh`, in order.

  Raises ValueError if the number of rows is not a multiple of the number of processes.
  """
  members = processes(mesh)
  size, rest = divmod(len(rows), len(members))
  if rest:
    raise ValueError(f'{len(rows)} rows are not a multiple of {len(members)} processes')
  start = members.index(jax.process_index()) * size
  return rows[start : start + size]


def gather(batch: Any, mesh: Mesh | None = None) -> Any:
  """The rows of all processes of `mesh` (of all without one) as host arrays; the inverse of `process_local`.

  Every process passes the same shapes. Pass one value a process (a length, a flag) as one row.
  """
  count = len(processes(mesh))
  if count == 1:
    return jax.tree.map(np.asarray, batch)
  devices = _by_process(jax.devices() if mesh is None else mesh.devices.flat)
  grid = Mesh(np.array(devices).reshape(count, -1), ('process', 'device'))
  by_process = NamedSharding(grid, PartitionSpec('process'))

  def join(x):
    return jax.make_array_from_process_local_data(by_process, np.asarray(x))

  whole = jax.tree.map(join, batch)
  with jax.set_mesh(grid):
    return jax.tree.map(np.asarray, _replicate(grid)(whole))


def sum_over_processes(values: Any, mesh: Mesh | None = None) -> Any:
  """The sum over the processes of each leaf (numbers or arrays), in float64: for metrics and counts."""

  def total(x):
    local = np.asarray(x, np.float64)
    # JAX arrays hold 32-bit numbers, so the bits of a float64 are sent as integers.
    bits = np.atleast_1d(local).view(np.uint32)
    by_process = gather(bits[None], mesh).view(np.float64)
    return by_process.sum(0).reshape(local.shape)

  return jax.tree.map(total, values)


@functools.cache
def _replicate(mesh: Mesh):
  return jax.jit(lambda x: x, out_shardings=NamedSharding(mesh, PartitionSpec()))


def local_shard(x: jax.Array, home: Mesh) -> jax.Array:
  """The shards of x on the devices of `home`, as a separate array; copies nothing.

  `home` is one of several meshes concatenated on `data` into x's mesh; x must not be sharded over `data`.
  """
  placement = NamedSharding(home, x.sharding.spec)
  shards = [shard.data for shard in x.addressable_shards]
  return jax.make_array_from_single_device_arrays(x.shape, placement, shards)


def to_local(x: jax.Array | np.ndarray) -> np.ndarray:
  """A host copy of a whole global array. Every process must call it if the array spans several."""
  if isinstance(x, np.ndarray) or x.is_fully_addressable or x.is_fully_replicated:
    return np.asarray(x)
  mesh = x.sharding.mesh
  with jax.set_mesh(mesh):
    return np.asarray(_replicate(mesh)(x))


def start(coordinator: str | None = None, processes: int | None = None, process: int | None = None) -> None:
  """Starts `jax.distributed` (idempotent): from the environment on Cloud TPU, GKE and Slurm, else from arguments.

  Call before anything touches a device.
  """
  if not jax.distributed.is_initialized():
    jax.distributed.initialize(coordinator, processes, process)


def barrier(name: str) -> None:
  """Barrier over all processes; `name` distinguishes it from other barriers."""
  if jax.process_count() > 1:
    from jax.experimental import multihost_utils

    multihost_utils.sync_global_devices(name)
