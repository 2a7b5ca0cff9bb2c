"""CTranslate2's `model.bin`: named arrays in one binary file (version 6 of the format)."""

import dataclasses
import math
import os
import pathlib
import struct

import ml_dtypes
import numpy as np

from core.files.store import CheckpointError

VERSION = 6
DTYPES = (np.float32, np.int8, np.int16, np.int32, np.float16, ml_dtypes.bfloat16)  # by code
LONGEST_RANK = 8


@dataclasses.dataclass(frozen=True)
class Model:
  """spec: the name of the model's kind. variables: arrays by name, aliases included, as views of the file."""

  spec: str
  revision: int
  variables: dict[str, np.ndarray]


class _Cursor:
  """Reads a buffer from front to back; raises CheckpointError beyond its end."""

  def __init__(self, data: memoryview):
    self.data = data
    self.at = 0

  def take(self, size: int) -> memoryview:
    """The next `size` bytes."""
    if self.at + size > len(self.data):
      raise CheckpointError(f'ends at byte {len(self.data)}; expected {self.at + size} or more')
    piece = self.data[self.at : self.at + size]
    self.at += size
    return piece

  def number(self, code: str) -> int:
    """The next little-endian integer, of a struct code."""
    layout = f'<{code}'
    taken = self.take(struct.calcsize(layout))
    (value,) = struct.unpack(layout, taken)
    return value

  def string(self) -> str:
    """A length that counts the zero byte at the end, the text, and that byte."""
    raw = bytes(self.take(self.number('H')))
    if raw[-1:] != b'\0':
      raise CheckpointError(f'byte {self.at}: a string without its final zero byte')
    try:
      return raw[:-1].decode()
    except UnicodeDecodeError as error:
      raise CheckpointError(f'byte {self.at}: a string that is not UTF-8') from error


def read(path: str | os.PathLike) -> Model:
  """A whole `model.bin`. Raises CheckpointError, naming the file, for one that is not, is cut off, or has a tail."""
  try:
    data = memoryview(pathlib.Path(path).read_bytes())
    cursor = _Cursor(data)
    model = _model(cursor)
    if cursor.at != len(data):
      raise CheckpointError(f'{len(data) - cursor.at} bytes after the end of the model')
  except CheckpointError as error:
    raise CheckpointError(f'{os.fspath(path)}: not a CTranslate2 model: {error}') from error
  return model


def _model(cursor: _Cursor) -> Model:
  version = cursor.number('I')
  if version != VERSION:
    raise CheckpointError(f'binary version {version}; expected {VERSION}')
  spec = cursor.string()
  revision = cursor.number('I')
  variables = {}
  for _ in range(cursor.number('I')):
    name = cursor.string()
    variables[name] = _array(cursor, name)
  for _ in range(cursor.number('I')):
    alias = cursor.string()
    name = cursor.string()
    if name not in variables:
      raise CheckpointError(f'{alias} stands for {name}, which is not in the file')
    variables[alias] = variables[name]
  return Model(spec=spec, revision=revision, variables=variables)


def _array(cursor: _Cursor, name: str) -> np.ndarray:
  rank = cursor.number('B')
  if rank > LONGEST_RANK:
    raise CheckpointError(f'{name}: rank {rank}')
  shape = tuple(cursor.number('I') for _ in range(rank))
  code = cursor.number('B')
  if code >= len(DTYPES):
    raise CheckpointError(f'{name}: dtype code {code}; expected 0 to {len(DTYPES) - 1}')
  dtype = np.dtype(DTYPES[code])
  size = cursor.number('I')
  if size != math.prod(shape) * dtype.itemsize:
    raise CheckpointError(f'{name}: {size} bytes; expected those of {dtype}{list(shape)}')
  return np.frombuffer(cursor.take(size), dtype).reshape(shape)
