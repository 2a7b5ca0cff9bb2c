"""Mixtures of data files as InternVL publishes them (OpenGVLab/InternVL, MMPR): a `meta.json` of

    {"a name": {"root": "MMPR-v1.2/images/M3CoT", "annotation": "MMPR-v1.2/annotations/m3cot.jsonl",
                "repeat_time": 0.5, "data_augment": false, "max_dynamic_patch": 12, "length": 529}, …}

Only `root`, which may be null where no row has media, and `annotation` are needed. An epoch goes `repeat_time` times
through a file; below 1, through that share of its rows, drawn once.
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

  root: the folder of its media, by default its own. repeat: passes through it an epoch; below 1 a share of its rows.
  augment: JPEG recompression of tiles. max_tiles: of an image, by default the processor's. rows: how many it should
  have, if that is known.
  """

  name: str
  path: str
  root: str | None = None
  repeat: float = 1.0
  augment: bool = False
  max_tiles: int | None = None
  rows: int | None = None

  def open(self, kind: type[R] = Rows, *, seed: int = 0) -> R:
    """Its rows, read by `Rows` or a class derived from it. Raises what that raises."""
    rows = kind(self.path, self.root, share=self.repeat, seed=seed)
    found = len(rows.records.records if self.repeat < 1 else rows.records)
    if self.rows not in (None, found):
      logging.warning('%s: has %d rows, its mixture says %d', self.path, found, self.rows)
    return rows

  def passes(self) -> float:
    """How often an epoch goes through the rows that `open` gives."""
    return max(self.repeat, 1.0)


def is_mixture(path: str) -> bool:
  """Whether the path is that of a meta.json, not of data."""
  return pathlib.Path(path).suffix == '.json'


def parts(paths: Sequence[str]) -> list[Part]:
  """The files of `paths`, a meta.json among them replaced by those it names. Raises as `read`."""
  return [part for path in paths for part in (read(path) if is_mixture(path) else [Part(path, path)])]


def read(path: str | os.PathLike) -> list[Part]:
  """The files that a meta.json names. Paths in it are taken as they are (so relative to the working directory, as in
  the release), else relative to its folder, else to the folder above, where MMPR's own file belongs.

  Raises FileNotFoundError: no such file, or one it names is missing. ValueError: not such a file; the message says
  where and which field.
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
  made = dict(pairs)
  if len(made) < len(pairs):
    names = [name for name, _ in pairs]
    raise ValueError(f'{next(n for n in names if names.count(n) > 1)!r} stands in one object twice')
  return made


def _place(path: pathlib.Path, text: str, name: str) -> str:
  found = re.search(re.escape(json.dumps(name, ensure_ascii=False)) + r'\s*:', text)
  line = f':{text.count(chr(10), 0, found.start()) + 1}' if found else ''
  return f'{path}{line}: {name!r}'


def _part(path: pathlib.Path, place: str, name: str, entry) -> Part:
  if not isinstance(entry, dict):
    raise ValueError(f'{place} must be an object, not {entry!r:.80}')

  def check(key, default, kind, good, expected):
    value = entry.get(key, default)
    if value is not default and (
      not isinstance(value, kind) or isinstance(value, bool) is not (kind is bool) or not good(value)
    ):
      raise ValueError(f'{place}: "{key}" must be {expected}, not {value!r:.80}')
    return value

  annotation = check('annotation', '', str, bool, 'the path of a file')
  root = check('root', None, str, bool, 'the path of a folder, or null')
  for key, given in (('annotation', annotation), ('root', 'root' in entry)):
    if not given:
      raise ValueError(f'{place}: has no "{key}"')
  if unknown := sorted(entry.keys() - _KNOWN):
    logging.warning('%s: not looked at: %s', place, ', '.join(unknown))
  positive = lambda value: 0 < value < math.inf
  return Part(
    name,
    _find(path, place, 'annotation', annotation),
    root and _find(path, place, 'root', root),
    float(check('repeat_time', 1.0, (int, float), positive, 'a positive number')),
    check('data_augment', False, bool, lambda value: True, 'true or false'),
    check('max_dynamic_patch', None, int, positive, 'a positive whole number'),
    check('length', None, int, positive, 'a positive whole number'),
  )


def _find(path: pathlib.Path, place: str, key: str, name: str) -> str:
  tried = [pathlib.Path(name), path.parent / name, path.absolute().parent.parent / name]
  for candidate in tried:
    if candidate.exists():
      return str(candidate)
  raise FileNotFoundError(f'{place}: "{key}" is {name!r}, which is none of {", ".join(map(str, tried))}')
