"""Torch `.pt` archives as numpy arrays, without torch and without running anything of the file.

Such a file is a zip of one pickle and the bytes of each storage. The pickle may name only the classes of ALLOWED, and
each of them is replaced by a function of this module; any other name ends reading.
"""

import collections
import dataclasses
import io
import math
import os
import pickle
import zipfile
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np

from core.files.store import CheckpointError

STORAGES = {
  'BFloat16Storage': np.dtype(ml_dtypes.bfloat16),
  'HalfStorage': np.dtype(np.float16),
  'FloatStorage': np.dtype(np.float32),
}
PICKLE_BYTES = 1 << 26


class _Locked:
  """A stand-in that no instruction of a pickle can change: it would stay changed for the next file."""

  def __setstate__(self, state: Any) -> None:
    raise CheckpointError('gives a class or function a state')


@dataclasses.dataclass(frozen=True)
class _StorageKind(_Locked):
  """What the pickle says of a storage's type."""

  dtype: np.dtype


@dataclasses.dataclass(frozen=True)
class _Call(_Locked):
  """A function that the pickle may call."""

  function: Callable

  def __call__(self, *args: Any) -> Any:
    return self.function(*args)


class Fields(dict):
  """An object of the file: its items, and its attributes as further items."""

  def __init__(self, *_: Any):
    super().__init__()  # transformers passes the values by place, and then again by name

  def __setstate__(self, state: Any) -> None:
    pieces = state if isinstance(state, tuple) else (state,)
    for piece in pieces:
      if piece is None:
        continue
      if not isinstance(piece, dict):
        raise CheckpointError(f'the state of an object is a {type(piece).__name__}; expected attributes by name')
      for name, value in piece.items():
        self.setdefault(name, value)


def read(path: str | os.PathLike) -> Any:
  """What a `.pt` file holds: its dicts and lists, with tensors as numpy arrays (bfloat16 as ml_dtypes').

  Objects of ALLOWED classes come back as `Fields`. Strides are honoured, so a transposed tensor is read as it was
  seen. Raises CheckpointError, naming the file, for one that is not such an archive, that names another class, whose
  storages are cut off or whose tensors reach beyond them.
  """
  try:
    with zipfile.ZipFile(path) as archive:
      return _Reader(archive).value()
  except (zipfile.BadZipFile, zipfile.LargeZipFile) as error:
    raise CheckpointError(f'{os.fspath(path)}: not a torch archive ({error})') from error
  except CheckpointError as error:
    raise CheckpointError(f'{os.fspath(path)}: {error}') from error
  except (pickle.UnpicklingError, EOFError, KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
    raise CheckpointError(f'{os.fspath(path)}: its pickle cannot be read ({error!r})') from error


class _Reader(pickle.Unpickler):
  """Reads the pickle of an open archive; storages are read when a tensor first needs them."""

  def __init__(self, archive: zipfile.ZipFile):
    self._archive = archive
    self._storages: dict[str, np.ndarray] = {}
    self._root = _root(archive)
    self._check_byte_order()
    super().__init__(io.BytesIO(self._member('data.pkl', PICKLE_BYTES)))

  def value(self) -> Any:
    """The object that the pickle describes."""
    return self.load()

  def find_class(self, module: str, name: str) -> Any:
    """The stand-in of an allowed class. Raises CheckpointError naming any other."""
    known = f'{module}.{name}'
    if known not in ALLOWED:
      raise CheckpointError(f'names the class {known}, which is not allowed; expected one of {sorted(ALLOWED)}')
    return ALLOWED[known]

  def persistent_load(self, pid: Any) -> np.ndarray:
    """The values of a storage, ("storage", type, member, device, count)."""
    if not isinstance(pid, tuple) or len(pid) != 5 or pid[0] != 'storage' or not isinstance(pid[1], _StorageKind):
      raise CheckpointError(f'refers to {pid!r}; expected a storage')
    _, kind, key, _, count = pid
    if key not in self._storages:
      size = count * kind.dtype.itemsize
      data = self._member(f'data/{key}', size)
      if len(data) != size:
        raise CheckpointError(f'storage {key} has {len(data)} bytes; expected {size}')
      self._storages[key] = np.frombuffer(data, kind.dtype)
    return self._storages[key]

  def _member(self, name: str, most: int) -> bytes:
    info = self._archive.getinfo(f'{self._root}/{name}')
    if info.compress_type != zipfile.ZIP_STORED or info.file_size > most:
      raise CheckpointError(f'{name} is compressed or has {info.file_size} bytes; expected at most {most}, stored')
    return self._archive.read(info)

  def _check_byte_order(self) -> None:
    if f'{self._root}/byteorder' not in self._archive.namelist():
      return  # older files have none and are little-endian
    order = self._member('byteorder', 16)
    if order != b'little':
      raise CheckpointError(f'byte order {order!r}; expected little')


def _root(archive: zipfile.ZipFile) -> str:
  roots = [name.removesuffix('/data.pkl') for name in archive.namelist() if name.endswith('/data.pkl')]
  if len(roots) != 1:
    raise CheckpointError(f'holds {len(roots)} members data.pkl; expected one')
  return roots[0]


def _tensor(storage: np.ndarray, offset: int, shape: tuple, strides: tuple, *_: Any) -> np.ndarray:
  """A tensor as a read-only view of its storage; what follows concerns gradients."""
  sizes = (offset, *shape, *strides)
  if len(shape) != len(strides) or not all(isinstance(n, int) and n >= 0 for n in sizes):
    raise CheckpointError(f'a tensor has offset {offset}, shape {shape} and strides {strides}')
  last = offset + sum((n - 1) * step for n, step in zip(shape, strides))
  if math.prod(shape) and last >= storage.size:
    raise CheckpointError(f'a tensor of shape {shape} reaches value {last} of a storage of {storage.size}')
  if not math.prod(shape):
    return np.empty(shape, storage.dtype)
  steps = tuple(step * storage.itemsize for step in strides)
  return np.lib.stride_tricks.as_strided(storage[offset:], shape, steps, writeable=False)


def _parameter(tensor: np.ndarray, *_: Any) -> np.ndarray:
  return tensor


# What a file may name → what stands for it here.
ALLOWED: dict[str, Any] = {
  'collections.OrderedDict': collections.OrderedDict,
  'torch._utils._rebuild_tensor_v2': _Call(_tensor),
  'torch._utils._rebuild_parameter': _Call(_parameter),
  'transformers.cache_utils.DynamicCache': Fields,
  'transformers.modeling_outputs.BaseModelOutputWithPast': Fields,
  **{f'torch.{name}': _StorageKind(dtype) for name, dtype in STORAGES.items()},
}
