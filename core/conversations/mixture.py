"""Mixtures of data files as InternVL publishes them (OpenGVLab/InternVL, MMPR): a `meta.json` of

    {"a name": {"root": "MMPR-v1.2/images/M3CoT", "annotation": "MMPR-v1.2/annotations/m3cot.jsonl",
                "repeat_time": 0.5, "data_augment": false, "max_dynamic_patch": 12, "length": 529}, …}

Only `root` (which may be null if no row has media) and `annotation` are required. An epoch makes `repeat_time` passes
over a file; below 1, it reads that share of its rows, chosen once.
"""

import dataclasses
import json
import math
import os
import pathlib
import re
from collections.abc import Sequence
from typing import TypeVar

from absl import logging

from core.conversations.rows import Rows

_KNOWN = {'root', 'annotation', 'repeat_time', 'data_augment', 'max_dynamic_patch', 'length'}
R = TypeVar('R', bound=Rows)


@dataclasses.dataclass(frozen=True)
class Part:
  """A file of a mixture.

  root: the folder of its media, by default the file's own. repeat: passes over it in an epoch; below 1 a share of its
  rows. augment: JPEG recompression of tiles. max_tiles: of an image, by default the processor's. rows: the number of
  rows that the mixture states, if it does.
  """

  name: str
  path: str
  root: str | None = None
  repeat: float = 1.0
  augment: bool = False
  max_tiles: int | None = None
  rows: int | None = None

  def open(self, kind: type[R] = Rows, *, seed: int = 0) -> R:
    """Its rows, read by `Rows` or a class derived from it. Raises what that class raises."""
    rows = kind(self.path, self.root, share=self.repeat, seed=seed)
    everything = rows.records.records if self.repeat < 1 else rows.records
    count = len(everything)
    if self.rows not in (None, count):
      logging.warning('%s: has %d rows, its mixture says %d', self.path, count, self.rows)
    return rows

  def passes(self) -> float:
    """How many passes an epoch makes over the rows that `open` returns."""
    return max(self.repeat, 1.0)


def is_mixture(path: str) -> bool:
  """Whether the path is that of a meta.json, not of data."""
  return pathlib.Path(path).suffix == '.json'


def parts(paths: Sequence[str]) -> list[Part]:
  """The files of `paths`; a meta.json is replaced by the files it names. Raises as `read`."""
  files = []
  for path in paths:
    files += read(path) if is_mixture(path) else [Part(path, path)]
  return files


def read(path: str | os.PathLike) -> list[Part]:
  """The files that a meta.json names. A path in it is tried as it is (relative to the working directory, as in the
  release), then relative to its folder, then to the parent of that folder, where MMPR's own file belongs.

  Raises FileNotFoundError: no such file, or a file it names is missing. ValueError: not a mixture; the message gives
  the line and the field.
  """
  path = pathlib.Path(path)
  text = path.read_text(encoding='utf-8')
  try:
    entries = json.loads(text, object_pairs_hook=_object)
  except json.JSONDecodeError as error:
    raise ValueError(f'{path}:{error.lineno}: not JSON: {error.msg}') from error
  except ValueError as error:
    raise ValueError(f'{path}: {error}') from error
  if not isinstance(entries, dict) or not entries:
    raise ValueError(f'{path}: expected an object of one or more named files')
  return [_part(path, _place(path, text, name), name, entry) for name, entry in entries.items()]


def _object(pairs: list[tuple]) -> dict:
  """A JSON object; raises ValueError for a key that occurs twice."""
  seen = {}
  for key, value in pairs:
    if key in seen:
      raise ValueError(f'{key!r} occurs twice in one object')
    seen[key] = value
  return seen


def _place(path: pathlib.Path, text: str, name: str) -> str:
  """`file:line: name` of an entry, for error messages."""
  key = re.escape(json.dumps(name, ensure_ascii=False))
  match = re.search(key + r'\s*:', text)
  if match is None:
    return f'{path}: {name!r}'
  line = text.count('\n', 0, match.start()) + 1
  return f'{path}:{line}: {name!r}'


def _part(path: pathlib.Path, place: str, name: str, entry) -> Part:
  if not isinstance(entry, dict):
    raise ValueError(f'{place} must be an object, not {entry!r:.80}')

  def check(key, default, is_good, expected):
    value = entry.get(key, default)
    if value is not default and not is_good(value):
      raise ValueError(f'{place}: "{key}" must be {expected}, not {value!r:.80}')
    return value

  annotation = check('annotation', '', _is_path, 'the path of a file')
  root = check('root', None, _is_path, 'the path of a folder, or null')
  repeat = check('repeat_time', 1.0, _is_positive, 'a positive number')
  augment = check('data_augment', False, _is_bool, 'true or false')
  max_tiles = check('max_dynamic_patch', None, _is_positive_int, 'a positive whole number')
  rows = check('length', None, _is_positive_int, 'a positive whole number')
  if not annotation:
    raise ValueError(f'{place}: has no "annotation"')
  if 'root' not in entry:
    raise ValueError(f'{place}: has no "root"')
  unknown = sorted(entry.keys() - _KNOWN)
  if unknown:
    logging.warning('%s: ignored: %s', place, ', '.join(unknown))
  return Part(
    name=name,
    path=_find(path, place, 'annotation', annotation),
    root=root and _find(path, place, 'root', root),
    repeat=float(repeat),
    augment=augment,
    max_tiles=max_tiles,
    rows=rows,
  )


def _is_path(value) -> bool:
  return isinstance(value, str) and value != ''


def _is_bool(value) -> bool:
  return isinstance(value, bool)


def _is_positive(value) -> bool:
  is_number = isinstance(value, int | float) and not isinstance(value, bool)
  return is_number and 0 < value < math.inf


def _is_positive_int(value) -> bool:
  return isinstance(value, int) and _is_positive(value)


def _find(path: pathlib.Path, place: str, key: str, name: str) -> str:
  tried = [pathlib.Path(name), path.parent / name, path.absolute().parent.parent / name]
  for candidate in tried:
    if candidate.exists():
      return str(candidate)
  raise FileNotFoundError(f'{place}: "{key}" is {name!r}, but none of these exists: {", ".join(map(str, tried))}')
