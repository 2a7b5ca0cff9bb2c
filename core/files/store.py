"""Folders of files behind a path or URL: local files are mapped, others opened through tensorstore's key-value stores.

This is the only module of a checkpoint's files that opens a path. A folder is a path, or a URL of one of SCHEMES.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import mmap
import os
import pathlib
import re
import sys
import tempfile
import urllib.parse
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO, Protocol, TypeVar

SCHEMES = ('file', 'gs', 's3', 'memory')
# An object store answers each read only after tens of milliseconds, and reads take memory.
AHEAD = 16  # reads under way at once
BLOCK = 2 << 20  # bytes of one
RETRIES = {'max_retries': 5, 'initial_delay': '500ms', 'max_delay': '8s'}  # by default a wrong bucket takes minutes
# What libraries read besides weights: configurations, tokenizers, chat templates.
SMALL = ('.json', '.txt', '.model', '.jinja', '.tiktoken')


class CheckpointError(ValueError):
  """A checkpoint that does not fit the model, or cannot be read; the message names every tensor at fault."""


class Span(Protocol):
  """Bytes start to stop of a file."""

  file: str
  start: int
  stop: int


SpanT = TypeVar('SpanT', bound=Span)


class Folder:
  """The files of one folder, by name.

  local: its path where it is on this machine's disks, else None. block: most bytes of a span that is fetched.
  """

  def __init__(self, url: str):
    self.url = url.rstrip('/')
    self.local = _local(url)
    self.block = BLOCK if self.local is None else sys.maxsize

  def __str__(self) -> str:
    return self.url

  def __truediv__(self, name: str) -> Folder:
    return Folder(f'{self.url}/{name}')

  @functools.cached_property
  def _store(self) -> Any:
    import tensorstore as ts

    return _answer(ts.KvStore.open(f'{self.url}/', context=_context()), self.url)

  def has(self, name: str) -> bool:
    """Whether there is a file of this name. Raises CheckpointError where the store cannot be asked."""
    if self.local is not None:
      return (self.local / name).is_file()
    return _answer(self._store.read(name, byte_range=slice(0, 0)), f'{self}/{name}').state == 'value'

  def names(self) -> list[str]:
    """The names of its files and folders, sorted; none for a folder that does not exist."""
    if self.local is not None:
      if self.local.is_dir():
        return sorted(os.listdir(self.local))
      return []
    keys = _answer(self._store.list(), self.url)
    return sorted({key.decode().partition('/')[0] for key in keys})

  def read(self, name: str) -> bytes:
    """A whole file. Raises CheckpointError when there is none, or it cannot be read."""
    if self.local is None:
      return self._value(self._request(name, 0, None), name)
    with self._opened(name) as file:
      return file.read()

  def fetch(self, spans: Iterable[SpanT]) -> Iterator[tuple[SpanT, memoryview]]:
    """Each span with its bytes, in order. Raises CheckpointError as `read`, and where a file ends before its span."""
    if self.local is None:
      yield from self._fetch_ahead(spans)
    else:
      yield from self._fetch_mapped(spans)

  def _fetch_ahead(self, spans: Iterable[SpanT]) -> Iterator[tuple[SpanT, memoryview]]:
    """Requests the next spans before the first is used."""
    pending: collections.deque = collections.deque()
    for span in spans:
      pending.append((span, self._request(span.file, span.start, span.stop)))
      if len(pending) == AHEAD:
        first, future = pending.popleft()
        yield first, memoryview(self._value(future, first.file))
    for span, future in pending:
      yield span, memoryview(self._value(future, span.file))

  def _fetch_mapped(self, spans: Iterable[SpanT]) -> Iterator[tuple[SpanT, memoryview]]:
    """Maps files, so that nothing is copied and the memory is the page cache's."""
    files: dict[str, memoryview] = {}
    for span in spans:
      if span.file not in files:
        files[span.file] = self._map(span.file)
      data = files[span.file][span.start : span.stop]
      if len(data) != span.stop - span.start:
        size = len(files[span.file])
        raise CheckpointError(f'{self}/{span.file}: ends at byte {size}; expected bytes up to {span.stop}')
      yield span, data

  def _map(self, name: str) -> memoryview:
    with self._opened(name) as file:
      if not os.fstat(file.fileno()).st_size:
        return memoryview(b'')  # which mmap refuses
      return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))

  @contextlib.contextmanager
  def _opened(self, name: str) -> Iterator[BinaryIO]:
    """A local file, open for reading."""
    try:
      with open(self.local / name, 'rb') as file:
        yield file
    except FileNotFoundError as error:
      raise CheckpointError(f'{self}/{name}: no such file') from error
    except OSError as error:
      raise CheckpointError(f'{self}/{name}: {error.strerror}') from error

  def _request(self, name: str, start: int, stop: int | None) -> Any:
    return self._store.read(name, byte_range=slice(start, stop))

  def _value(self, future: Any, name: str) -> bytes:
    result = _answer(future, f'{self}/{name}')
    if result.state != 'value':
      raise CheckpointError(f'{self}/{name}: no such file')
    return result.value

  def write(self, name: str, pieces: Iterable[Any]) -> None:
    """Writes a file from bytes-like pieces; it appears under its name when complete, or not at all.

    A local file is written piece by piece; other stores take a file at once, so it is held in memory.
    """
    if self.local is None:
      _answer(self._store.write(name, b''.join(pieces)), f'{self}/{name}')
      return
    file = self.local / name
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f'{file.name}.part')
    try:
      with open(part, 'wb') as out:
        out.writelines(pieces)
      os.replace(part, file)
    except BaseException:
      part.unlink(missing_ok=True)
      raise

  def delete(self, name: str) -> None:
    """Removes a file, if there is one."""
    if self.local is None:
      _answer(self._store.write(name, None), f'{self}/{name}')
    else:
      (self.local / name).unlink(missing_ok=True)

  @contextlib.contextmanager
  def small_files(self) -> Iterator[pathlib.Path]:
    """A local folder with the files whose suffix is in SMALL, for libraries that open paths themselves."""
    if self.local is not None:
      yield self.local
      return
    with tempfile.TemporaryDirectory() as copy:
      for name in self.names():
        if name.endswith(SMALL):
          pathlib.Path(copy, name).write_bytes(self.read(name))
      yield pathlib.Path(copy)

  @contextlib.contextmanager
  def staged(self) -> Iterator[pathlib.Path]:
    """A local folder whose files belong to this one when the block ends, for libraries that write paths themselves."""
    if self.local is not None:
      self.local.mkdir(parents=True, exist_ok=True)
      yield self.local
      return
    with tempfile.TemporaryDirectory() as draft:
      yield pathlib.Path(draft)
      for file in sorted(pathlib.Path(draft).iterdir()):
        self.write(file.name, [file.read_bytes()])


FolderPath = str | os.PathLike | Folder


def folder(path: FolderPath) -> Folder:
  """The folder of a path or URL; nothing is read yet. Raises CheckpointError for a scheme not in SCHEMES."""
  if isinstance(path, Folder):
    return path
  return Folder(os.fspath(path))


def _local(url: str) -> pathlib.Path | None:
  """The local path of a path or file:// URL; None for the URL of another store."""
  broken = re.match(r'([a-z][a-z0-9+.-]*):/(?!/)', url)
  if broken:
    raise CheckpointError(f'{url}: a URL has two slashes; pathlib.Path drops one, so pass URLs as text')
  scheme, marks, rest = url.partition('://')
  if not marks:
    return pathlib.Path(url)
  if scheme not in SCHEMES:
    known = ', '.join(f'{name}://' for name in SCHEMES)
    raise CheckpointError(f'{url}: scheme {scheme!r}; expected a path, or a URL of {known}')
  if scheme == 'file':
    return pathlib.Path(urllib.parse.unquote(rest))
  return None


@functools.cache
def _context() -> Any:
  """One for all folders: what memory:// holds lives as long as the context."""
  import tensorstore as ts

  return ts.Context({'gcs_request_retries': RETRIES, 's3_request_retries': RETRIES})


def _answer(future: Any, where: str) -> Any:
  """The result of a request. Raises CheckpointError naming `where`."""
  try:
    return future.result()
  except Exception as error:  # tensorstore has no error class of its own
    text = ' '.join(str(error).split())
    advice = '; do the bucket and the credentials of this machine fit?' if where.startswith(('gs:', 's3:')) else ''
    raise CheckpointError(f'{where}: the store refuses ({text[:300]}){advice}') from error
