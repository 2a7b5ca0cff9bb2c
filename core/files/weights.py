"""Safetensors in and out through a tree of names. Every tensor is used exactly once.

A model gives a tree of `From`s in the shape of its parameters. `load` checks all names, shapes and dtypes against
the files' headers before any memory is spent, then copies from the mapped files straight to each weight's place on
the mesh; `save` writes the same tensors back.
"""

import collections
import dataclasses
import json
import math
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import einops
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import safetensors
from einops.parsing import ParsedExpression
from safetensors.numpy import save_file

from core import mesh as mesh_lib
from core import params as params_lib
from core.files import folders
from core.files.config import CheckpointError, read_json

DTYPES = {'F32': np.dtype(np.float32), 'F16': np.dtype(np.float16), 'BF16': np.dtype(ml_dtypes.bfloat16)}
SHARD_BYTES = 5 * 10**9
SINGLE = 'model.safetensors'
INDEX = 'model.safetensors.index.json'
# Computed from the config by every reader; older exports store them.
DERIVED = ('rotary_emb.inv_freq',)


@dataclasses.dataclass(frozen=True)
class From:
  """Where one weight lives in a checkpoint.

  name: may hold `{layer}` and `{expert}`, which run over the weight's leading dimensions in that order.
  pattern: einops, 'stored -> ours', of what one name holds; read backwards to save. With `parts`, the pattern's
  right side starts with an axis `part` and this weight is number `part` of it: a fused tensor shared by several.
  """

  name: str
  pattern: str = ''
  part: int = 0
  parts: int = 1

  @property
  def stack(self) -> int:
    """How many leading dimensions of the weight run over names."""
    return ('{layer}' in self.name) + ('{expert}' in self.name)

  def names(self, shape: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], str]]:
    """(index, name) of each stored tensor that makes up a weight of `shape`."""
    keys = [k for k in ('layer', 'expert') if f'{{{k}}}' in self.name]
    for index in np.ndindex(shape[: self.stack]):
      yield index, self.name.format(**dict(zip(keys, index)))

  def _sizes(self, shape):
    ours = self.pattern.split('->')[1].split()
    return dict(zip(ours, ((self.parts,) if self.parts > 1 else ()) + tuple(shape)))

  def stored_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape in the file of one name, for our `shape` without the stack."""
    if not self.pattern:
      return tuple(shape)
    sizes = self._sizes(shape)
    groups = ParsedExpression(self.pattern.split('->')[0].strip()).composition
    return tuple(math.prod(sizes[axis] for axis in group) for group in groups)

  def read(self, stored: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Our piece of a stored tensor, as a view: reading only splits and transposes axes."""
    if not self.pattern:
      return stored
    ours = einops.rearrange(stored, self.pattern, **self._sizes(shape))
    return ours[self.part] if self.parts > 1 else ours

  def write(self, pieces: list[np.ndarray]) -> np.ndarray:
    """The stored tensor of our pieces (all parts in order)."""
    if not self.pattern:
      return pieces[0]
    left, right = self.pattern.split('->')
    ours = np.stack(pieces) if self.parts > 1 else pieces[0]
    sizes = dict(zip(right.split(), ours.shape))
    return einops.rearrange(ours, f'{right} -> {left}', **sizes)


class Files:
  """The tensors of a checkpoint folder, by name, with shapes and dtypes from the headers; data stays in the files."""

  def __init__(self, path: str | os.PathLike):
    self.path = pathlib.Path(path)
    if not self.path.is_dir():
      found = 'is a file' if self.path.exists() else 'no such folder'
      raise CheckpointError(f'{self.path}: {found}; expected the folder of a checkpoint')
    self.where, self.shapes, self.dtypes, self._at = {}, {}, {}, {}
    promised = self._index()
    for file in self._shards(promised):
      try:
        handle = safetensors.safe_open(file, framework='numpy')
      except (safetensors.SafetensorError, OSError) as e:
        raise CheckpointError(f'{file}: not a complete safetensors file ({e})') from e
      mapped = np.memmap(file, np.uint8, 'r')
      start = 8 + int.from_bytes(mapped[:8].tobytes(), 'little')  # the header's length, the header, the tensors
      header = json.loads(mapped[8:start].tobytes())
      for name in handle.keys():  # noqa: SIM118 - not a dict
        if name in self.where:
          raise CheckpointError(f'{name}: in both {self.where[name]} and {file}')
        piece = handle.get_slice(name)
        self.where[name], self.shapes[name], self.dtypes[name] = file, tuple(piece.get_shape()), piece.get_dtype()
        begin, end = header[name]['data_offsets']
        self._at[name] = mapped[start + begin : start + end]
    absent = [f'{name} in {file}' for name, file in promised.items() if self.where.get(name) != self.path / file]
    if absent:
      raise CheckpointError(f'{self.path / INDEX} promises {absent[:5]}, which the files do not hold')

  def _index(self) -> dict[str, str]:
    """Tensor name → file name, of a folder in several shards; else empty."""
    index = self.path / INDEX
    if not index.exists():
      return {}
    try:
      return dict(read_json(index)['weight_map'])
    except (KeyError, TypeError, ValueError) as e:
      raise CheckpointError(f'{index}: not a weight index ({e!r})') from e

  def _shards(self, promised: dict[str, str]) -> list[pathlib.Path]:
    if promised:
      names = sorted(set(promised.values()))
      missing = [n for n in names if not (self.path / n).is_file()]
      if missing:
        raise CheckpointError(f'{self.path / INDEX} names {missing}, which are not in the folder')
      return [self.path / n for n in names]
    whole = self.path / SINGLE
    if whole.is_file():
      return [whole]
    files = [file for file in sorted(self.path.glob('*.safetensors')) if not file.name.startswith('adapter_')]
    if not files:
      raise CheckpointError(f'{self.path}: expected .safetensors files; the folder {folders.describe(self.path)}')
    return files

  @property
  def dtype(self) -> np.dtype:
    """The dtype that most of the values have. Raises CheckpointError when they are not floating-point numbers."""
    values = collections.Counter()
    for name, dtype in self.dtypes.items():
      values[dtype] += math.prod(self.shapes[name])
    ((most, _),) = values.most_common(1)
    if most not in DTYPES:
      raise CheckpointError(f'{self.path}: most values are {most}; expected one of {sorted(DTYPES)}')
    return DTYPES[most]

  def __contains__(self, name: str) -> bool:
    return name in self.where

  def read(self, name: str) -> np.ndarray:
    """One tensor, mapped: pages are read when they are touched and are the file's, not this process's."""
    return np.asarray(self._at[name]).view(DTYPES[self.dtypes[name]]).reshape(self.shapes[name])


def _leaves(names: Any, spec: Any) -> list[tuple[str, From, params_lib.Spec]]:
  specs, tree = jax.tree.flatten_with_path(spec)
  return [
    (params_lib.path_name(path), source, s) for (path, s), source in zip(specs, tree.flatten_up_to(names), strict=True)
  ]


def check(files: Files, names: Any, spec: Any) -> None:
  """Raises one CheckpointError listing each missing, unexpected, misshapen or non-float tensor and unused part."""
  faults, used = [], {}
  for _, source, s in _leaves(names, spec):
    want = source.stored_shape(s.shape[source.stack :])
    for _, name in source.names(s.shape):
      used.setdefault(name, set()).add(source.part)
      if name not in files:
        faults.append(f'{name}: missing')
      elif files.shapes[name] != want:
        faults.append(f'{name}: shape {files.shapes[name]}, the model expects {want}')
      elif files.dtypes[name] not in DTYPES:
        faults.append(f'{name}: dtype {files.dtypes[name]}, expected one of {sorted(DTYPES)}')
  faults = list(dict.fromkeys(faults))  # a fused tensor is visited once a part
  strays = sorted(name for name in files.where if name not in used and not name.endswith(DERIVED))
  faults += [f'{name}: not part of this model' for name in strays]
  if faults:
    shown = '\n  '.join(faults[:20]) + (f'\n  … and {len(faults) - 20} more' if len(faults) > 20 else '')
    raise CheckpointError(f'{files.path}: {len(faults)} tensors do not fit the model:\n  {shown}')


def load(files: Files, names: Any, spec: Any, *, mesh=None, rules=mesh_lib.RULES, dtype=jnp.bfloat16) -> Any:
  """The parameters of a checkpoint in `dtype`, each weight put in its place as it is read.

  Host memory never holds more than the share of one weight that this process's devices are about to take (on CPU that
  memory is the weight), and each process reads only that share. Raises CheckpointError as `check` does.
  """
  check(files, names, spec)
  place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  leaves = [
    _stream(files, source, s, mesh_lib.sharding(s.shape, s.axes, mesh, rules) if mesh else place, dtype)
    for _, source, s in _leaves(names, spec)
  ]
  return jax.tree.unflatten(jax.tree.structure(spec), leaves)


def _stream(files: Files, source: From, s: params_lib.Spec, sharding, dtype) -> jax.Array:
  """One weight, each shard copied (and cast) once from the mapped files."""
  depth, piece_shape = source.stack, s.shape[source.stack :]

  def shard(index):
    spans = [range(*i.indices(n)) for i, n in zip(index, s.shape)]
    out = _aligned(tuple(map(len, spans)), dtype)
    for at, name in source.names(s.shape):
      if all(i in span for i, span in zip(at, spans)):
        local = tuple(span.index(i) for i, span in zip(at, spans))
        out[local] = source.read(files.read(name), piece_shape)[index[depth:]]
    return out

  return jax.block_until_ready(jax.make_array_from_callback(s.shape, sharding, shard))


def _aligned(shape: tuple[int, ...], dtype) -> np.ndarray:
  """An empty array on a 64-byte boundary, which a CPU device takes over as it is instead of copying."""
  size = math.prod(shape) * np.dtype(dtype).itemsize
  raw = np.empty(size + 64, np.uint8)
  start = -raw.ctypes.data % 64
  return raw[start : start + size].view(dtype).reshape(shape)


def save(path: str | os.PathLike, params: Any, names: Any, spec: Any) -> None:
  """Writes safetensors shards and, when there are several, their index, with the names, shapes and dtypes given.

  Each file appears under its name only when complete. On several processes the first one writes.
  """
  path = pathlib.Path(path)
  path.mkdir(parents=True, exist_ok=True)
  weights = _stacked_leaves(params, spec)
  entries: dict[str, list] = {}  # stored name -> [(source, weight, index)], one a part
  sizes: dict[str, int] = {}
  for (_, source, s), w in zip(_leaves(names, spec), weights):
    for index, name in source.names(s.shape):
      entries.setdefault(name, []).append((source, w, index))
      sizes[name] = sizes.get(name, 0) + math.prod(s.shape[source.stack :]) * w.dtype.itemsize
  shards = _shard(sizes)
  for i, shard in enumerate(shards):
    tensors = {name: _gather(entries[name]) for name in shard}
    if jax.process_index() == 0:
      file = path / _shard_name(i, len(shards))
      save_file(tensors, f'{file}.part', metadata={'format': 'pt'})
      os.replace(f'{file}.part', file)
  if len(shards) > 1 and jax.process_index() == 0:
    weight_map = {name: _shard_name(i, len(shards)) for i, shard in enumerate(shards) for name in shard}
    index = {'metadata': {'total_size': sum(sizes.values())}, 'weight_map': weight_map}
    (path / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + '\n')


def _stacked_leaves(params: Any, spec: Any) -> list[jax.Array]:
  """The leaves of `params` in the order of `spec`: plain arrays, unstacked blocks stacked again."""
  is_tuple = lambda x: isinstance(x, tuple)
  restack = lambda x: jax.tree.map(lambda *w: jnp.stack(w), *x) if is_tuple(x) else x
  params = jax.tree.map(restack, params_lib.fold(params), is_leaf=is_tuple)
  return [_host_view(w) for w in jax.tree.structure(spec).flatten_up_to(params)]


def _host_view(w: jax.Array) -> jax.Array | np.ndarray:
  """An array in this host's memory as numpy, without a copy; one that lives elsewhere is fetched piece by piece."""
  if isinstance(w, np.ndarray):
    return w
  (device, *others) = w.devices()
  return np.asarray(w) if device.platform == 'cpu' and not others else w


def _gather(parts: list) -> np.ndarray:
  parts = sorted(parts, key=lambda p: p[0].part)
  source = parts[0][0]
  return np.ascontiguousarray(source.write([mesh_lib.to_local(w[index]) for _, w, index in parts]))


def _shard(sizes: dict[str, int]) -> list[list[str]]:
  shards, room = [], 0
  for name, size in sizes.items():
    if not shards or size > room:
      shards.append([])
      room = SHARD_BYTES
    shards[-1].append(name)
    room -= size
  return shards


def _shard_name(i: int, n: int) -> str:
  return SINGLE if n == 1 else f'model-{i + 1:05d}-of-{n:05d}.safetensors'
