"""Safetensors files: headers in and out, and any part of a tensor by byte range."""

import collections
import dataclasses
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np

from core.files import copying, folders, store
from core.files.config import naming, read_json
from core.files.store import CheckpointError, Folder, FolderPath

# In the order in which the safetensors library lays tensors out, last first.
DTYPES = {'F16': np.dtype(np.float16), 'BF16': np.dtype(ml_dtypes.bfloat16), 'F32': np.dtype(np.float32)}
SUFFIX = '.safetensors'
STEM = 'model'  # of the names of weight files, as transformers writes them
HEADER_BYTES = 10**8  # the library's own limit
GAP = 1 << 16  # shorter gaps are read through: a request costs more than these bytes


def single_name(stem: str = STEM) -> str:
  """The file of a checkpoint in one piece."""
  return f'{stem}{SUFFIX}'


def index_name(stem: str = STEM) -> str:
  """The file that says in which shard each tensor is."""
  return f'{stem}{SUFFIX}.index.json'


@dataclasses.dataclass(frozen=True)
class Stored:
  """A tensor in a file: bytes start to stop."""

  file: str
  dtype: str
  shape: tuple[int, ...]
  start: int
  stop: int


@dataclasses.dataclass(frozen=True)
class Block:
  """Bytes of a file and where their values go: `out[...]` is these bytes seen with `strides`."""

  file: str
  start: int
  stop: int
  dtype: np.dtype
  strides: tuple[int, ...]
  out: np.ndarray


class Files:
  """The tensors of a checkpoint folder, by name; what they hold stays in the files until it is asked for."""

  def __init__(self, path: FolderPath, files: Sequence[str] = (), *, stem: str = STEM):
    """files: the names of the safetensors files; by default those of the index, or all but adapters.

    stem: of the names of index and single file.
    """
    self.folder = store.folder(path)
    self._single = single_name(stem)
    self._index_name = index_name(stem)
    local = self.folder.local
    if local is not None and not local.is_dir():
      found = 'is a file' if local.exists() else 'no such folder'
      raise CheckpointError(f'{self.folder}: {found}; expected the folder of a checkpoint')
    self.tensors: dict[str, Stored] = {}
    promised = {} if files else self._index()
    for tensors in _headers(self.folder, files or self._shards(promised)):
      self._add(tensors)
    held = {name: stored.file for name, stored in self.tensors.items()}
    absent = [f'{name} in {file}' for name, file in promised.items() if held.get(name) != file]
    if absent:
      raise CheckpointError(f'{self.folder}/{self._index_name} promises {absent[:5]}, which the files do not hold')

  def _add(self, tensors: Mapping[str, Stored]) -> None:
    """Adds the tensors of one file. Raises CheckpointError for one that another file holds too."""
    for name, stored in tensors.items():
      if name in self.tensors:
        other = self.tensors[name].file
        raise CheckpointError(f'{self.folder}: {name} is in both {other} and {stored.file}')
      self.tensors[name] = stored

  def _index(self) -> dict[str, str]:
    """Tensor name → file name, of a folder in several shards; else empty."""
    if not self.folder.has(self._index_name):
      return {}
    try:
      return dict(read_json(self.folder, self._index_name)['weight_map'])
    except (KeyError, TypeError, ValueError) as e:
      raise CheckpointError(f'{self.folder}/{self._index_name}: not a weight index ({e!r})') from e

  def _shards(self, promised: Mapping[str, str]) -> Sequence[str]:
    if promised:
      names = sorted(set(promised.values()))
      missing = [name for name in names if not self.folder.has(name)]
      if missing:
        raise CheckpointError(f'{self.folder}/{self._index_name} names {missing}, which are not in the folder')
      return names
    if self.folder.has(self._single):
      return [self._single]
    names = self.folder.names()
    files = [name for name in names if name.endswith(SUFFIX) and not name.startswith('adapter_')]
    if not files:
      found = folders.describe(names)
      raise CheckpointError(f'{self.folder}: expected .safetensors files; the folder {found}')
    return files

  @property
  def dtype(self) -> np.dtype:
    """The dtype that most of the values have. Raises CheckpointError when they are not floating-point numbers."""
    values: collections.Counter = collections.Counter()
    for stored in self.tensors.values():
      values[stored.dtype] += math.prod(stored.shape)
    ((most, _),) = values.most_common(1)
    if most not in DTYPES:
      raise CheckpointError(f'{self.folder}: most values are {most}; expected one of {sorted(DTYPES)}')
    return DTYPES[most]

  def __contains__(self, name: str) -> bool:
    return name in self.tensors

  def read(self, name: str) -> np.ndarray:
    """One whole tensor in the dtype of the file."""
    stored = self.tensors[name]
    out = np.empty(stored.shape, DTYPES[stored.dtype])
    self.fill([(name, lambda tensor: tensor, out)])
    return out

  def fill(self, wanted: Iterable[tuple[str, Callable[[np.ndarray], np.ndarray], np.ndarray]]) -> None:
    """Copies `take(tensor)` of each (name, take, out) into `out`, cast to its dtype.

    Only the bytes that `take` selects are read (and gaps under GAP). It may split, transpose and slice, but not copy.
    """
    for block, data in self.folder.fetch(self._all_blocks(wanted)):
      view = np.ndarray(block.out.shape, block.dtype, data, strides=block.strides)
      copying.copy(view, block.out)

  def _all_blocks(self, wanted: Iterable[tuple[str, Callable, np.ndarray]]) -> Iterator[Block]:
    for name, take, out in wanted:
      stored = self.tensors[name]
      yield from _blocks(stored, take, out, self.folder.block)


def _blocks(stored: Stored, take: Callable, out: np.ndarray, size: int) -> Iterator[Block]:
  dtype = DTYPES[stored.dtype]
  # Memory that is never touched, and so never allocated: only the addresses of the view on it are of interest.
  tensor = np.empty(stored.shape, dtype)
  for view, place in _split(take(tensor), out, size):
    offset = view.ctypes.data - tensor.ctypes.data
    start = stored.start + offset
    stop = start + _extent(view)
    yield Block(stored.file, start, stop, dtype, view.strides, place)


def _extent(view: np.ndarray) -> int:
  """Bytes from the first to the last value of a view that is not empty."""
  to_last = (stride * (n - 1) for n, stride in zip(view.shape, view.strides))
  return view.itemsize + sum(to_last)


def _split(view: np.ndarray, out: np.ndarray, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Pieces of a view and the same pieces of `out`, each of at most `size` bytes and without gaps of GAP and more."""
  if not view.size:
    return
  steps = [stride if n > 1 else 0 for n, stride in zip(view.shape, view.strides)]
  stride = max(steps, default=0)
  if not stride:
    yield view, out
    return
  axis = steps.index(stride)
  before = (slice(None),) * axis
  # A view is a box of a dense tensor, so its outermost gap is its widest.
  first = view[(*before, slice(0, 1))]
  gap = stride - _extent(first)
  if gap < GAP and _extent(view) <= size:
    yield view, out
    return
  step = 1 if gap >= GAP else max(1, size // stride)
  for start in range(0, view.shape[axis], step):
    at = (*before, slice(start, start + step))
    yield from _split(view[at], out[at], size)


@dataclasses.dataclass(frozen=True)
class _Range:
  file: str
  start: int
  stop: int


def _headers(folder: Folder, files: Sequence[str]) -> list[dict[str, Stored]]:
  """The tensors of each file. Raises CheckpointError naming a file that is not complete or not safetensors."""
  spans = []
  for first, data in folder.fetch(_Range(file, 0, 8) for file in files):
    length = _header_length(folder, first.file, data)
    spans.append(_Range(first.file, 8, 8 + length))
  headers = []
  ends = []
  for span, data in folder.fetch(spans):
    with naming(f'{folder}/{span.file}: not a safetensors file'):
      tensors = _parse(span.file, bytes(data), span.stop)
    headers.append(tensors)
    stops = (stored.stop for stored in tensors.values())
    ends.append(max(stops, default=span.stop))
  _check_complete(folder, files, ends)
  return headers


def _check_complete(folder: Folder, files: Sequence[str], ends: Sequence[int]) -> None:
  """Raises CheckpointError for a file that does not end at the byte that its header says."""
  for _ in folder.fetch(_Range(file, end - 1, end) for file, end in zip(files, ends)):
    pass  # a file that was cut off has no such byte
  if folder.local is None:
    return
  for file, end in zip(files, ends):
    size = (folder.local / file).stat().st_size
    if size != end:
      raise CheckpointError(f'{folder}/{file}: not a complete safetensors file: its header accounts for {end} bytes')


def _header_length(folder: Folder, file: str, data: memoryview) -> int:
  length = int.from_bytes(data, 'little')
  if not 2 <= length <= HEADER_BYTES:
    raise CheckpointError(f'{folder}/{file}: not a safetensors file (a header of {length} bytes)')
  return length


def _parse(file: str, header: bytes, base: int) -> dict[str, Stored]:
  """The tensors that a header lists; their bytes must follow one another from `base` on."""
  entries = json.loads(header)
  entries.pop('__metadata__', None)
  tensors = {}
  for name, entry in entries.items():
    begin, end = entry['data_offsets']
    dtype = entry['dtype']
    shape = tuple(entry['shape'])
    tensors[name] = Stored(file, dtype, shape, base + begin, base + end)
    given = end - begin
    size = given
    if dtype in DTYPES:
      size = DTYPES[dtype].itemsize * math.prod(shape)
    if given != size:
      raise ValueError(f'{name} has {given} bytes; expected {size} of {dtype}{list(shape)}')
  at = base
  for name, stored in sorted(tensors.items(), key=_byte_range):
    if stored.start != at:
      raise ValueError(f'{name} begins at byte {stored.start}; expected {at}')
    at = stored.stop
  return tensors


def _byte_range(item: tuple[str, Stored]) -> tuple[int, int]:
  _, stored = item
  return stored.start, stored.stop


def header(tensors: Mapping[str, tuple[np.dtype, tuple[int, ...]]]) -> tuple[bytes, list[str]]:
  """The first bytes of a file with tensors of these dtypes and shapes, and the order in which their values follow.

  The bytes and the order are those that the safetensors library writes. Raises ValueError for a dtype not in DTYPES.
  """
  ranks = {dtype: rank for rank, dtype in enumerate(DTYPES.values())}
  codes = {dtype: code for code, dtype in DTYPES.items()}
  for name, (dtype, _) in tensors.items():
    if dtype not in ranks:
      raise ValueError(f'{name}: {dtype} cannot be saved; expected one of {[str(known) for known in ranks]}')

  def rank_and_name(name: str) -> tuple[int, bytes]:
    dtype, _ = tensors[name]
    return -ranks[dtype], name.encode()

  order = sorted(tensors, key=rank_and_name)
  entries: dict[str, Any] = {'__metadata__': {'format': 'pt'}}
  at = 0
  for name in order:
    dtype, shape = tensors[name]
    end = at + dtype.itemsize * math.prod(shape)
    entries[name] = {'dtype': codes[dtype], 'shape': list(shape), 'data_offsets': [at, end]}
    at = end
  text = json.dumps(entries, separators=(',', ':'), ensure_ascii=False).encode()
  text += b' ' * (-len(text) % 8)
  return len(text).to_bytes(8, 'little') + text, order
