"""Tensors to be saved as safetensors files: their bytes, and how they are divided into files."""

import dataclasses
import math
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from core import mesh as mesh_lib
from core.files.tensors import SUFFIX, header, single_name

SHARD_BYTES = 5 * 10**9


@dataclasses.dataclass(frozen=True)
class Entry:
  """A tensor to be saved: its shape in the file, and (source, weight, index) of each part of it."""

  shape: tuple[int, ...]
  dtype: np.dtype
  parts: list

  @property
  def nbytes(self) -> int:
    """Bytes in the file."""
    return math.prod(self.shape) * self.dtype.itemsize


def pieces(entries: dict[str, Entry]) -> Iterator[Any]:
  """The bytes of a safetensors file, one tensor in memory at a time."""
  head, order = header({name: (entry.dtype, entry.shape) for name, entry in entries.items()})
  yield head
  for name in order:
    tensor = gather(entries[name].parts)
    yield tensor.reshape(-1).view(np.uint8).data


def gather(parts: list) -> np.ndarray:
  """The stored tensor of (source, weight, index) of each of its parts."""
  parts = sorted(parts, key=lambda part: part[0].part)
  source, _, _ = parts[0]
  local = [mesh_lib.to_local(w[*index, ...]) for _, w, index in parts]
  return np.ascontiguousarray(source.write(local))


def divide(sizes: dict[str, int]) -> list[list[str]]:
  """The names of the tensors of each shard, in order; a shard holds at most SHARD_BYTES or one tensor."""
  shards = []
  free = 0
  for name, size in sizes.items():
    if not shards or size > free:
      shards.append([])
      free = SHARD_BYTES
    shards[-1].append(name)
    free -= size
  return shards


def file_name(stem: str, i: int, n: int) -> str:
  """The file of shard i of n."""
  if n == 1:
    return single_name(stem)
  return f'{stem}-{i + 1:05d}-of-{n:05d}{SUFFIX}'


def pattern(stem: str) -> re.Pattern:
  """The names that `file_name` gives."""
  return re.compile(rf'{re.escape(stem)}(-\d{{5}}-of-\d{{5}})?{re.escape(SUFFIX)}')
