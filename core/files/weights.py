"""Safetensors in and out through a tree of names. Every tensor is used exactly once.

A model gives a tree of `From`s in the shape of its parameters. `load` checks all names, shapes and dtypes against
the files' headers before any memory is spent, then copies from the mapped files straight to each weight's place on
the mesh; `save` writes the same tensors back.
"""

import collections
import dataclasses
import math
from collections.abc import Collection, Iterator
from typing import Any

import einops
import jax
import jax.numpy as jnp
import numpy as np
from einops.parsing import ParsedExpression

from core import mesh as mesh_lib
from core import params as params_lib
from core.files import copying, shards, store
from core.files.config import write_json
from core.files.shards import Entry
from core.files.store import CheckpointError, Folder, FolderPath
from core.files.tensors import DTYPES, STEM, Files, index_name

MOST_NAMES = 100_000  # that one weight may have: a config that asks for more layers is damaged, or hostile
MOST_SHOWN = 20  # faults in a message
# Computed from the config by every reader; older exports store them.
DERIVED = ('rotary_emb.inv_freq',)


@dataclasses.dataclass(frozen=True)
class From:
  """Where one weight lives in a checkpoint.

  name: may hold `{layer}` and `{expert}`, which run over the weight's leading dimensions in that order.
  pattern: einops, 'stored -> ours', of what one name holds; read backwards to save. With `parts`, the pattern's
  right side starts with an axis `part` and this weight is number `part` of it: a fused tensor shared by several.
  first: the number that names call the first layer.
  """

  name: str
  pattern: str = ''
  part: int = 0
  parts: int = 1
  first: int = 0

  @property
  def stack(self) -> int:
    """How many leading dimensions of the weight run over names."""
    return ('{layer}' in self.name) + ('{expert}' in self.name)

  def names(self, shape: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], str]]:
    """(index, name) of each stored tensor that makes up a weight of `shape`."""
    keys = [k for k in ('layer', 'expert') if f'{{{k}}}' in self.name]
    for index in np.ndindex(shape[: self.stack]):
      numbers = dict(zip(keys, index))
      if 'layer' in numbers:
        numbers['layer'] += self.first
      yield index, self.name.format(**numbers)

  def _sizes(self, shape):
    _, ours = self.pattern.split('->')
    parts = ()
    if self.parts > 1:
      parts = (self.parts,)
    return dict(zip(ours.split(), (*parts, *shape)))

  def stored_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape in the file of one name, for our `shape` without the stack."""
    if not self.pattern:
      return tuple(shape)
    sizes = self._sizes(shape)
    stored, _ = self.pattern.split('->')
    composition = ParsedExpression(stored.strip()).composition
    return tuple(math.prod(sizes[axis] for axis in group) for group in composition)

  def read(self, stored: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Our piece of a stored tensor, as a view: reading only splits and transposes axes."""
    if not self.pattern:
      return stored
    ours = einops.rearrange(stored, self.pattern, **self._sizes(shape))
    if self.parts > 1:
      return ours[self.part]
    return ours

  def write(self, pieces: list[np.ndarray]) -> np.ndarray:
    """The stored tensor of our pieces (all parts in order)."""
    if not self.pattern:
      return pieces[0]
    left, right = self.pattern.split('->')
    ours = np.stack(pieces) if self.parts > 1 else pieces[0]
    sizes = dict(zip(right.split(), ours.shape))
    return einops.rearrange(ours, f'{right} -> {left}', **sizes)


def leaves(names: Any, spec: Any) -> list[tuple[str, From, params_lib.Spec]]:
  """(our name, place in the files, spec) of each weight."""
  specs, tree = jax.tree.flatten_with_path(spec)
  sources = tree.flatten_up_to(names)
  return [(params_lib.path_name(path), source, s) for (path, s), source in zip(specs, sources, strict=True)]


def check(files: Files, names: Any, spec: Any, *, unused: Collection[str] = ()) -> None:
  """Raises one CheckpointError listing each missing, unexpected, misshapen or non-float tensor and unused part.

  unused: tensors that are stored but take no part in the computation, and so are not read.
  """
  faults = []
  used = set()
  for _, source, s in leaves(names, spec):
    want = source.stored_shape(s.shape[source.stack :])
    count = math.prod(s.shape[: source.stack])
    if count > MOST_NAMES:
      faults.append(f'{source.name}: the config asks for {count} of them; the files hold {len(files.tensors)} tensors')
      continue
    for _, name in source.names(s.shape):
      used.add(name)
      fault = _fault(files, name, want)
      if fault is not None:
        faults.append(f'{name}: {fault}')
  faults = list(dict.fromkeys(faults))  # a fused tensor is visited once a part
  strays = sorted(files.tensors.keys() - used - set(unused))
  faults += [f'{name}: not part of this model' for name in strays if not name.endswith(DERIVED)]
  if faults:
    shown = faults[:MOST_SHOWN]
    if len(faults) > MOST_SHOWN:
      shown.append(f'… and {len(faults) - MOST_SHOWN} more')
    listed = '\n  '.join(shown)
    raise CheckpointError(f'{files.folder}: {len(faults)} tensors do not fit the model:\n  {listed}')


def _fault(files: Files, name: str, shape: tuple[int, ...]) -> str | None:
  """What is wrong with one stored tensor, or None."""
  if name not in files:
    return 'missing'
  stored = files.tensors[name]
  if stored.shape != shape:
    return f'shape {stored.shape}, the model expects {shape}'
  if stored.dtype not in DTYPES:
    return f'dtype {stored.dtype}, expected one of {sorted(DTYPES)}'
  return None


def load(
  files: Files,
  names: Any,
  spec: Any,
  *,
  mesh=None,
  rules=mesh_lib.RULES,
  dtype=jnp.bfloat16,
  unused: Collection[str] = (),
) -> Any:
  """The parameters of a checkpoint in `dtype`, each weight put in its place as it is read.

  Host memory never holds more than the share of one weight that this process's devices are about to take (on CPU that
  memory is the weight), and each process reads only that share. unused: as in `check`, which says what is raised.
  """
  check(files, names, spec, unused=unused)
  loaded = []
  for _, source, s in leaves(names, spec):
    if mesh:
      place = mesh_lib.sharding(s.shape, s.axes, mesh, rules)
    else:
      place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    loaded.append(_stream(files, source, s, place, dtype))
  return jax.tree.unflatten(jax.tree.structure(spec), loaded)


def _stream(files: Files, source: From, s: params_lib.Spec, sharding, dtype) -> jax.Array:
  """One weight, each shard read and cast once; devices that hold the same shard get copies of it."""
  read: dict[str, np.ndarray] = {}

  def shard(index):
    ranges = [range(*part.indices(size)) for part, size in zip(index, s.shape)]
    shape = tuple(map(len, ranges))
    out = copying.memory(shape, dtype)
    key = str(index)
    if key in read:
      out[...] = read[key]
    else:
      files.fill(_wanted(source, s, index, out))
      read[key] = out
    return out

  return jax.block_until_ready(jax.make_array_from_callback(s.shape, sharding, shard))


def _wanted(source: From, s: params_lib.Spec, index: tuple[slice, ...], out: np.ndarray) -> Iterator[tuple]:
  """(name, what to take of that tensor, its place in `out`) of each tensor with values of the shard at `index`."""
  depth = source.stack
  spans = [range(*i.indices(n)) for i, n in zip(index, s.shape)]

  def take(stored: np.ndarray) -> np.ndarray:
    whole = source.read(stored, s.shape[depth:])
    return whole[*index[depth:], ...]  # the dots keep a scalar a view

  for at, name in source.names(s.shape):
    if all(i in span for i, span in zip(at, spans)):
      local = tuple(span.index(i) for i, span in zip(at, spans))
      yield name, take, out[*local, ...]


def save(path: FolderPath, params: Any, names: Any, spec: Any, *, stem: str = STEM) -> None:
  """Writes safetensors shards and, when there are several, their index, with the names, shapes and dtypes given.

  Each file appears under its name only when complete, the index last; an older save in the folder is replaced. On
  several processes the first one writes. stem: of the files' names. Raises ValueError for weights that are not
  floating-point numbers.
  """
  folder = store.folder(path)
  index = index_name(stem)
  entries = _entries(params, names, spec)
  divided = shards.divide({name: entry.nbytes for name, entry in entries.items()})
  first = jax.process_index() == 0
  files = [shards.file_name(stem, i, len(divided)) for i in range(len(divided))]
  if first:
    folder.delete(index)  # the old one would vouch for a mixture of old and new files
  for file, shard in zip(files, divided):
    _write(folder, file, {name: entries[name] for name in shard})
  if not first:
    return
  written = set(filter(shards.pattern(stem).fullmatch, folder.names()))
  for stale in written - set(files):
    folder.delete(stale)
  if len(divided) > 1:
    total = sum(entry.nbytes for entry in entries.values())
    weight_map = {name: file for file, shard in zip(files, divided) for name in shard}
    write_json(folder, index, {'metadata': {'total_size': total}, 'weight_map': weight_map})


def save_one(path: FolderPath, file: str, params: Any, names: Any, spec: Any) -> None:
  """Writes one safetensors file, as `save` does."""
  _write(store.folder(path), file, _entries(params, names, spec))


def _write(folder: Folder, file: str, entries: dict[str, Entry]) -> None:
  pieces = shards.pieces(entries)
  if jax.process_index() == 0:
    folder.write(file, pieces)
  else:
    collections.deque(pieces, maxlen=0)  # takes part in the gathers


def save_config(path: FolderPath, config: dict) -> None:
  """Writes config.json; on several processes the first one does."""
  if jax.process_index() == 0:
    write_json(store.folder(path), 'config.json', config)


def _entries(params: Any, names: Any, spec: Any) -> dict[str, Entry]:
  """The tensors to be saved, by name."""
  entries: dict[str, Entry] = {}
  for (_, source, s), w in zip(leaves(names, spec), _stacked_leaves(params, spec)):
    shape = source.stored_shape(s.shape[source.stack :])
    for index, name in source.names(s.shape):
      entry = entries.setdefault(name, Entry(shape, np.dtype(w.dtype), []))
      entry.parts.append((source, w, index))
  return entries


def _stacked_leaves(params: Any, spec: Any) -> list[jax.Array]:
  """The leaves of `params` in the order of `spec`: plain arrays, unstacked blocks stacked again."""
  params = restacked(params_lib.fold(params))
  return [_host_view(w) for w in jax.tree.structure(spec).flatten_up_to(params)]


def restacked(params: Any) -> Any:
  """The parameters with unstacked blocks stacked again."""

  def restack(x: Any) -> Any:
    if not isinstance(x, tuple) or not x:  # a stage may have no blocks
      return x
    return jax.tree.map(lambda *layers: jnp.stack(layers), *x)

  return jax.tree.map(restack, params, is_leaf=lambda x: isinstance(x, tuple))


def _host_view(w: jax.Array) -> jax.Array | np.ndarray:
  """An array in this host's memory as numpy, without a copy; one that lives elsewhere is fetched piece by piece."""
  if isinstance(w, np.ndarray):
    return w
  (device, *others) = w.devices()
  if device.platform == 'cpu' and not others:
    return np.asarray(w)
  return w
