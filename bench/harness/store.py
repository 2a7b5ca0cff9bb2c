"""Writing files: atomically, or line by line so that a stopped run can resume."""

import contextlib
import fcntl
import json
import os
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from core.text import parse_json


def dump(value: Any) -> str:
  """One line of JSON, the same for the same value. Raises ValueError on NaN."""
  return json.dumps(value, ensure_ascii=False, allow_nan=False, sort_keys=True)


def write_text(path: Path, text: str) -> None:
  """Writes a whole file or nothing."""
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.with_name(f'.{path.name}.{os.getpid()}')
  try:
    temporary.write_text(text, encoding='utf-8', newline='\n')
    os.replace(temporary, path)
  finally:
    temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
  """Holds `folder` for one run. Raises ValueError while another process holds it; a killed process frees it."""
  folder.mkdir(parents=True, exist_ok=True)
  with open(folder / '.lock', 'a') as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      raise ValueError(f'{folder}: another run is writing here; wait for it, or choose another folder') from None
    yield


class Log:
  """An append-only JSONL file whose first line says what its entries belong to.

  A line is on disk before `append` returns, whole even where several threads or processes append. A last line
  cut by a crash is dropped; damaged lines before it are skipped, counted in `damaged` and named on standard
  error. Opening a log whose header differs or cannot be read raises ValueError naming the first field that does.
  """

  def __init__(self, path: Path, header: Mapping[str, Any]):
    self.entries: list[dict] = []
    self.damaged = 0
    self._lock = threading.Lock()  # an flock does not keep apart the threads of one process
    header = parse_json(dump(header))
    path.parent.mkdir(parents=True, exist_ok=True)
    self._file = open(path, 'a+b', buffering=0)  # noqa: SIM115 (open as long as the log is)
    try:
      with self._alone():
        self._file.seek(0)
        raw = self._file.read()
        whole = raw[: raw.rfind(b'\n') + 1]
        if whole:
          self._read(path, whole, header)
        self._file.truncate(len(whole))
        if not whole:
          self._file.write(_line(header))
    except BaseException:
      self._file.close()
      raise

  def _read(self, path: Path, whole: bytes, header: dict) -> None:
    first, *rest = whole.split(b'\n')[:-1]
    found = _entry(first)
    if found is None:
      raise ValueError(f'{path}: damaged in its first line, which holds the settings; move it away to start again')
    for field in sorted(header | found):
      if header.get(field) != found.get(field):
        raise ValueError(
          f'{path} was written with {field}={found.get(field)!r}, this run has '
          f'{header.get(field)!r}; choose another place, or restore the setting to continue'
        )
    read = [_entry(line) for line in rest]
    self.entries = [entry for entry in read if entry is not None]
    bad = [str(number) for number, entry in enumerate(read, 2) if entry is None]
    self.damaged = len(bad)
    if bad:
      print(f'{path}: {len(bad)} damaged lines are skipped ({", ".join(bad[:10])})', file=sys.stderr)

  @contextlib.contextmanager
  def _alone(self) -> Iterator[None]:
    with self._lock:
      fcntl.flock(self._file, fcntl.LOCK_EX)
      try:
        yield
      finally:
        fcntl.flock(self._file, fcntl.LOCK_UN)

  def append(self, entry: Mapping[str, Any]) -> None:
    """Writes one entry. Raises ValueError for what is not JSON."""
    line = _line(entry)
    with self._alone():
      self._file.write(line)

  def close(self) -> None:
    self._file.close()

  def __enter__(self):
    return self

  def __exit__(self, *exc):
    self.close()


def _line(value: Mapping[str, Any]) -> bytes:
  return dump(value).encode() + b'\n'


def _entry(line: bytes) -> dict | None:
  """The object of one line; None for anything else."""
  try:
    value = parse_json(line.decode('utf-8'))
  except ValueError:
    return None
  if isinstance(value, dict):
    return value
  return None
