"""Files that are written: whole or not at all, or line by line so that a stopped run can go on."""

import json
import os
from collections.abc import Mapping
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


class Log:
  """An append-only JSONL file whose first line says what its entries belong to.

  A line is on disk before `append` returns. A last line cut by a crash is dropped. Opening a log whose header
  differs raises ValueError naming the first field that does.
  """

  def __init__(self, path: Path, header: Mapping[str, Any]):
    self.entries: list[dict] = []
    header = parse_json(dump(header))
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = path.read_bytes() if path.exists() else b''
    whole = whole[: whole.rfind(b'\n') + 1]
    if whole:
      self._read(path, whole, header)
    self._file = open(path, 'r+b' if path.exists() else 'w+b')  # noqa: SIM115 (open as long as the log is)
    self._file.truncate(len(whole))
    self._file.seek(len(whole))
    if not whole:
      self._write(header)

  def _read(self, path: Path, whole: bytes, header: dict) -> None:
    try:
      found, *self.entries = (parse_json(line) for line in whole.decode('utf-8').splitlines())
    except ValueError as error:
      raise ValueError(f'{path}: damaged before its last line ({error}); move it away to start afresh') from None
    for field in sorted(header | found):
      if header.get(field) != found.get(field):
        raise ValueError(
          f'{path} was written with {field}={found.get(field)!r}, this run has '
          f'{header.get(field)!r}; choose another place, or restore the setting to go on'
        )

  def append(self, entry: Mapping[str, Any]) -> None:
    self._write(entry)

  def _write(self, value: Mapping[str, Any]) -> None:
    self._file.write(dump(value).encode() + b'\n')
    self._file.flush()

  def close(self) -> None:
    self._file.close()

  def __enter__(self):
    return self

  def __exit__(self, *exc):
    self.close()
