"""From files to batches: sources with random access, mixing, packing, sharding by process.

    parts = {'ocr': (JsonLines('ocr.jsonl'), 2.0), 'chat': (Parquet('chat.parquet'), 1.0)}
    stream = batches(pack(mix(parts, seed=0).map(encode).to_iter_dataset(), {'tokens': 4096, 'tiles': 12}), 8)
    for batch in stream: ...                 # stream.get_state() / .set_state(...) resume it exactly

Grain does the work; here are the file formats that it lacks and the choices that training needs. Records are
dictionaries; an encoded example is a dictionary of arrays whose first axis is its length.
"""

import functools
import json
import os
import pathlib
import threading
from collections.abc import Mapping, Sequence
from typing import Protocol

import grain
import jax
import numpy as np
from absl import flags


class RecordSource(Protocol):
  """Records by number."""

  def __len__(self) -> int: ...
  def __getitem__(self, index: int) -> dict: ...
  def place(self, index: int) -> str: ...  # file and line of a record, for messages


class DataError(ValueError):
  """A file does not hold what it should; the message says where."""


def _record(text: bytes, place: str) -> dict:
  """A JSON object, or a DataError that begins with `place`."""
  try:
    record = json.loads(text.decode('utf-8'))
  except ValueError as error:  # both JSON and UTF-8 errors
    raise DataError(f'{place}: not JSON: {error}') from error
  if not isinstance(record, dict):
    raise DataError(f'{place}: {type(record).__name__}, expected an object')
  return record


class JsonLines:
  """One JSON object a line, UTF-8. One pass over the file at first finds where each line starts.

  Blank lines are no records; CRLF line ends are read as LF and a byte-order mark is passed over.
  Raises DataError for a file without records, and for a last line that was cut; for any other line that is
  not a JSON object when that line is read.
  """

  def __init__(self, path: str | os.PathLike):
    self.path = str(path)
    self._local = threading.local()
    starts = []
    ends = []
    numbers = []
    at = 0
    with open(self.path, 'rb') as f:
      for number, line in enumerate(f, 1):
        skip = 3 if number == 1 and line.startswith(b'\xef\xbb\xbf') else 0
        if line[skip:].strip():
          starts.append(at + skip)
          ends.append(at + len(line))
          numbers.append(number)
        at += len(line)
    if not starts:
      raise DataError(f'{self.path}: no records')
    self._starts = np.asarray(starts, np.int64)
    self._ends = np.asarray(ends, np.int64)
    self._numbers = np.asarray(numbers, np.int64)
    self._check_last()

  def _check_last(self):
    text = self._bytes(len(self) - 1)
    if not text.endswith(b'\n'):
      try:
        _record(text, '')
      except DataError as error:
        raise DataError(f'{self.place(len(self) - 1)}: the last line is cut off') from error

  def __len__(self) -> int:
    return len(self._starts)

  def place(self, index: int) -> str:
    """file:line of a record."""
    return f'{self.path}:{self._numbers[index]}'

  def _bytes(self, index: int) -> bytes:
    if not hasattr(self._local, 'file'):  # each reading thread has its own position in the file
      self._local.file = open(self.path, 'rb')  # noqa: SIM115 (lives as long as the thread)
    self._local.file.seek(self._starts[index])
    return self._local.file.read(self._ends[index] - self._starts[index])

  def __getitem__(self, index: int) -> dict:
    return _record(self._bytes(index), self.place(index))

  def __getstate__(self):  # open files do not travel to worker processes
    return {k: v for k, v in self.__dict__.items() if k != '_local'}

  def __setstate__(self, state):
    self.__dict__ = state | {'_local': threading.local()}

  def __repr__(self) -> str:
    return f'JsonLines({self.path!r})'


class Parquet:
  """Rows of a Parquet file as dictionaries of Python values.

  A row is reached through its row group, of which the last few stay decoded: for shuffled reading write small
  groups (hundreds of rows). Raises DataError if the file is not Parquet, is cut off, or has no rows.
  """

  def __init__(self, path: str | os.PathLike):
    import pyarrow as pa
    import pyarrow.parquet as pq

    self.path = str(path)
    with open(self.path, 'rb') as f:  # a missing file is the operating system's error, not ours
      try:
        meta = pq.ParquetFile(f).metadata
      except pa.ArrowException as error:
        raise DataError(f'{self.path}: not a whole Parquet file: {error}') from error
    rows = [meta.row_group(i).num_rows for i in range(meta.num_row_groups)]
    if not sum(rows):
      raise DataError(f'{self.path}: no records')
    self._ends = np.cumsum(rows)

  def __len__(self) -> int:
    return int(self._ends[-1])

  def __getitem__(self, index: int) -> dict:
    group = int(np.searchsorted(self._ends, index, side='right'))
    start = 0
    if group:
      start = int(self._ends[group - 1])
    return _row_group(self.path, group).slice(index - start, 1).to_pylist()[0]

  def place(self, index: int) -> str:
    """file and row of a record."""
    return f'{self.path} row {index}'

  def __repr__(self) -> str:
    return f'Parquet({self.path!r})'


@functools.lru_cache(maxsize=8)
def _row_group(path: str, group: int):
  import pyarrow.parquet as pq

  with pq.ParquetFile(path) as f:
    return f.read_row_group(group)


class ArrayRecord:
  """ArrayRecord files whose payloads are JSON objects, in the order of `paths`."""

  def __init__(self, paths: str | os.PathLike | Sequence[str | os.PathLike]):
    if isinstance(paths, (str, os.PathLike)):
      paths = [paths]
    self.paths = [str(p) for p in paths]
    for path in self.paths:
      if not pathlib.Path(path).is_file():
        raise FileNotFoundError(2, 'no such file', path)
    try:
      self._records = grain.sources.ArrayRecordDataSource(self.paths)
      if not len(self._records):
        raise DataError(f'{self.paths}: no records')
    except (RuntimeError, ValueError) as error:
      raise DataError(f'{self.paths}: not whole ArrayRecord files: {error}') from error

  def __len__(self) -> int:
    return len(self._records)

  def __getitem__(self, index: int) -> dict:
    return _record(self._records[index], self.place(index))

  def place(self, index: int) -> str:
    """files and number of a record."""
    return f'{self.paths} record {index}'

  def __repr__(self) -> str:
    return f'ArrayRecord({self.paths!r})'


class Subset:
  """The records of a source that have these numbers, as a source."""

  def __init__(self, records: RecordSource, numbers: Sequence[int]):
    self.records = records
    self.numbers = np.asarray(numbers, np.int64)

  def __len__(self) -> int:
    return len(self.numbers)

  def __getitem__(self, index: int) -> dict:
    return self.records[int(self.numbers[index])]

  def place(self, index: int) -> str:
    """File and line of a record in the whole source."""
    return self.records.place(int(self.numbers[index]))

  def __repr__(self) -> str:
    return f'{len(self)} of {self.records!r}'


SUFFIXES = {'.jsonl': JsonLines, '.parquet': Parquet, '.array_record': ArrayRecord}


def source(path: str | os.PathLike) -> RecordSource:
  """The source for a file, by its suffix. Raises ValueError for an unknown one."""
  suffix = pathlib.Path(path).suffix
  if suffix not in SUFFIXES:
    raise ValueError(f'{path}: suffix {suffix!r}, expected one of {", ".join(SUFFIXES)}')
  return SUFFIXES[suffix](path)


def mix(
  parts: Mapping[str, tuple[RecordSource, float]],
  *,
  seed: int,
  shuffle: bool = True,
  epochs: int | None = None,
  shard: tuple[int, int] | None = None,
) -> grain.MapDataset:
  """Records drawn from named sources in proportion to their weights, this process's share of them.

  Each source is reshuffled every epoch. Without `epochs` it repeats for ever; with it the stream ends when
  the first source has been read that often. `shard`: (which, of how many), by default this process of all;
  shares are disjoint and together make the whole stream. Raises ValueError for an impossible weight.
  """
  for name, (_, weight) in parts.items():
    if not 0 < weight < float('inf'):
      raise ValueError(f'weight of {name!r} is {weight}: expected a positive number')
  if not parts:
    raise ValueError('no sources to mix')
  streams = []
  for i, (records, _) in enumerate(parts.values()):
    stream = grain.MapDataset.source(records).seed(seed + i)
    streams.append((stream.shuffle() if shuffle else stream).repeat(epochs))
  weights = [weight for _, weight in parts.values()]
  stream = grain.MapDataset.mix(streams, weights) if len(streams) > 1 else streams[0]
  which, many = shard or (jax.process_index(), jax.process_count())
  if many > 1:
    return stream[which::many]
  return stream


def pack(examples: grain.IterDataset, lengths: Mapping[str, int], *, rows: int) -> grain.IterDataset:
  """Rows of several whole examples each, first fit, `rows` open at a time.

  `lengths` gives the budget of a row for each feature, such as {'tokens': 4096, 'labels': 4096, 'tiles': 12}:
  an example goes to a row in which all its features fit. Features not named are dropped. A row is zero-padded; to its
  features it adds, for the first of them,
    segments   int32 [length]: which example, from 1; 0 is padding
    positions  int32 [length]: from 0 in each example
  and `<name>_segments` for each feature whose budget differs from the first's.

  Raises ValueError, when it comes to it, for an example longer than a row or empty in its first feature.
  """
  first, *others = lengths

  def check(example):
    for name, most in lengths.items():
      if name not in example:
        raise ValueError(f'an example has no feature {name!r}; it has {sorted(example)}')
      if len(example[name]) > most:
        raise ValueError(f'an example has {len(example[name])} {name}: expected at most {most}')
    if not len(example[first]):
      raise ValueError(f'an example has no {first}')
    return {name: np.asarray(example[name]) for name in lengths}

  def rename(row):
    kept = {name: row[name] for name in lengths}
    kept |= {'segments': row[f'{first}_segment_ids'], 'positions': row[f'{first}_positions']}
    separate = [name for name in others if lengths[name] != lengths[first]]
    return kept | {f'{name}_segments': row[f'{name}_segment_ids'] for name in separate}

  packed = grain.experimental.FirstFitPackIterDataset(
    examples.map(check), length_struct=dict(lengths), num_packing_bins=rows, shuffle_bins=False
  )
  return packed.map(rename)


def batches(rows: grain.IterDataset, size: int, *, ahead: int = 2, workers: int = 0) -> grain.DatasetIterator:
  """An iterator of [size, ...] batches, `ahead` of them prepared in advance; a short last one is dropped.

  `workers` processes do the reading and encoding; 0 means a thread, enough unless images are decoded.
  `get_state()` is JSON-able and counts only what was handed out, so a checkpoint resumes exactly.
  """
  if size < 1:
    raise ValueError(f'batch size {size}: expected 1 or more')
  stream = rows.batch(size, drop_remainder=True)
  if workers:
    if not flags.FLAGS.is_parsed():  # grain's workers read absl flags, which a notebook never parses
      flags.FLAGS.mark_as_parsed()
    return iter(stream.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers)))
  return iter(grain.experimental.ThreadPrefetchIterDataset(stream, prefetch_buffer_size=ahead))
