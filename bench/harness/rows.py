"""Rows of the files that benchmarks come in, and of the answers written about them.

Reads JSON, JSON lines, CSV, TSV, Parquet and folders saved by the `datasets` library. A row that cannot be
read is reported and never stops the others; text is always valid Unicode afterwards.
"""

import csv
import dataclasses
import hashlib
import io
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from bench.harness.task import Data, Example, Problem, without_repeats
from core.text import clean, parse_json

SUFFIXES = ('.json', '.jsonl', '.csv', '.tsv', '.parquet', '.arrow')


@dataclasses.dataclass(frozen=True)
class Rows:
  """(where, row) pairs in file order, the rows that cannot be read, those that were repaired, the hash of each file."""

  rows: tuple[tuple[str, dict], ...]
  skipped: tuple[Problem, ...]
  repaired: tuple[Problem, ...]
  files: Mapping[str, str]

  @property
  def read(self) -> int:
    return len(self.rows) + len(self.skipped)


class RowError(ValueError):
  """A row that no example can be made of; the message is the reason that the report gives."""


def need(row: Mapping, field: str, kind=str):
  """row[field], or a RowError that names what is missing or of the wrong kind."""
  value = row.get(field)
  if value is None:
    raise RowError(f'missing:{field}')
  if not isinstance(value, kind):
    raise RowError(f'wrong_type:{field}')
  if isinstance(value, str):
    return clean(value)
  return value


def row_id(row: Mapping, where: str, *fields: str) -> str:
  """The row's own id as text, or its place in the file when it has none."""
  for field in fields or ('id',):
    value = row.get(field)
    if isinstance(value, (str, int)) and not isinstance(value, bool) and str(value):
      return clean(str(value))
  return where


def load_examples(path: str, make: Callable[[str, dict], Example]) -> Data:
  """Examples made of each row of `path` by make(where, row); a RowError skips the row and is reported."""
  rows = read_rows(path)
  examples = []
  skipped = list(rows.skipped)
  for where, row in rows.rows:
    try:
      examples.append(make(where, row))
    except RowError as error:
      skipped.append(Problem(where, str(error)))
  kept, repeats = without_repeats(examples)
  return Data(kept, rows.read, rows.files, (*skipped, *repeats), rows.repaired)


def read_rows(path: str) -> Rows:
  """All rows of a file, or of every data file of a folder.

  Raises FileNotFoundError for a missing path and ValueError for a kind of file that is not one of `SUFFIXES`.
  """
  root = Path(path)
  if not root.exists():
    raise FileNotFoundError(f'{path}: no such file or folder')
  files = [root] if root.is_file() else _data_files(root)
  parts = [_READERS[_suffix(file)](file, file.name) for file in files]
  return Rows(
    tuple(row for part in parts for row in part[0]),
    tuple(problem for part in parts for problem in part[1]),
    tuple(problem for part in parts for problem in part[2]),
    {str(file.relative_to(root) if root.is_dir() else file.name): sha256(file) for file in files},
  )


def sha256(path: Path) -> str:
  """Hexadecimal digest of a file."""
  with open(path, 'rb') as f:
    return hashlib.file_digest(f, 'sha256').hexdigest()


def _data_files(root: Path) -> list[Path]:
  arrow = sorted(p for p in root.rglob('*.arrow') if not p.name.startswith('cache-'))
  files = arrow or sorted(p for p in root.rglob('*') if p.suffix in SUFFIXES)
  if not files:
    raise ValueError(f'{root}: the folder holds none of {", ".join(SUFFIXES)}')
  return files


def _suffix(path: Path) -> str:
  if path.suffix.lower() not in SUFFIXES:
    raise ValueError(f'{path}: unknown kind of file {path.suffix!r}, expected one of {", ".join(SUFFIXES)}')
  return path.suffix.lower()


def _decode(raw: bytes, where: str, repaired: list[Problem]) -> str:
  try:
    return raw.decode('utf-8-sig')
  except UnicodeDecodeError:
    repaired.append(Problem(where, 'invalid_utf8'))
    return raw.decode('utf-8-sig', 'replace')


def _read_jsonl(path: Path, name: str):
  rows = []
  skipped = []
  repaired = []
  lines = path.read_bytes().split(b'\n')
  for number, raw in enumerate(lines, 1):
    where = f'{name}:{number}'
    text = _decode(raw, where, repaired).strip()
    if not text:
      continue
    try:
      row = parse_json(text)
    except ValueError:
      skipped.append(Problem(where, 'cut_last_line' if number == len(lines) else 'bad_json'))
      continue
    if isinstance(row, dict):
      rows.append((where, row))
    else:
      skipped.append(Problem(where, 'not_an_object'))
  return rows, skipped, repaired


def _read_json(path: Path, name: str):
  repaired: list[Problem] = []
  try:
    value = parse_json(_decode(path.read_bytes(), name, repaired))
  except ValueError as error:
    raise ValueError(f'{path}: not JSON ({error}); a file of one object a line is named .jsonl') from None
  if isinstance(value, dict):
    lists = [v for v in value.values() if isinstance(v, list)]
    # Either one list under a name, or objects under their ids (as MathVista has it).
    if len(lists) == 1:
      (value,) = lists
    else:
      value = [{'id': k, **v} for k, v in value.items() if isinstance(v, dict)]
  if not isinstance(value, list):
    raise ValueError(f'{path}: expected a JSON list of objects, got {type(value).__name__}')
  numbered = [(i, row) for i, row in enumerate(value) if isinstance(row, dict)]
  rows = [(f'{name}[{i}]', row) for i, row in numbered]
  others = [i for i, row in enumerate(value) if not isinstance(row, dict)]
  skipped = [Problem(f'{name}[{i}]', 'not_an_object') for i in others]
  return rows, skipped, repaired


def _read_csv(path: Path, name: str):
  repaired: list[Problem] = []
  text = _decode(path.read_bytes(), name, repaired)
  csv.field_size_limit(min(sys.maxsize, 1 << 30))
  dialect = 'excel-tab' if path.suffix.lower() == '.tsv' else 'excel'
  table = csv.DictReader(io.StringIO(text, newline=''), dialect=dialect)
  rows = []
  skipped = []
  for number, row in enumerate(table, 2):
    where = f'{name}:{number}'
    if None in row or None in row.values():
      skipped.append(Problem(where, 'wrong_number_of_columns'))
    else:
      rows.append((where, row))
  return rows, skipped, repaired


def _read_parquet(path: Path, name: str):
  import pyarrow.parquet

  try:
    return _table_rows(pyarrow.parquet.ParquetFile(path).iter_batches(), name)
  except pyarrow.ArrowException as error:
    raise ValueError(f'{path}: not Parquet ({error})') from None


def _read_arrow(path: Path, name: str):
  import pyarrow

  with pyarrow.memory_map(str(path)) as source:
    try:
      return _table_rows(pyarrow.ipc.open_stream(source), name)
    except pyarrow.ArrowInvalid:  # not the stream format of `datasets`, so it must be the file format
      pass
    try:
      reader = pyarrow.ipc.open_file(source)
      return _table_rows((reader.get_batch(i) for i in range(reader.num_record_batches)), name)
    except pyarrow.ArrowException as error:
      raise ValueError(f'{path}: not Arrow ({error})') from None


def _table_rows(batches: Iterable, name: str):
  rows = [row for batch in batches for row in batch.to_pylist()]
  return [(f'{name}[{i}]', row) for i, row in enumerate(rows)], [], []


_READERS = {
  '.json': _read_json,
  '.jsonl': _read_jsonl,
  '.csv': _read_csv,
  '.tsv': _read_csv,
  '.parquet': _read_parquet,
  '.arrow': _read_arrow,
}


def iter_texts(value: Any) -> Iterator[str]:
  """Every text inside a row, cleaned."""
  if isinstance(value, str):
    yield clean(value)
  elif isinstance(value, (list, tuple)):
    for part in value:
      yield from iter_texts(part)
