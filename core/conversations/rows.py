"""Conversations from JSONL, Parquet or ArrayRecord files, in InternVL's format or as OpenAI-style messages.

A row is `{"image": str | [str], "video": str | [str], "conversations": [{"from": "human" | "gpt" | "system",
"value": "<image>\\n…"}]}`, or the same with `"messages": [{"role": …, "content": …}]` instead of `"conversations"`.
Media are optional, their paths relative to a root folder; `"images"` is another name of `"image"`. Other keys are
ignored. Access is by row number.
"""

from __future__ import annotations

import functools
import os
from typing import Any

import numpy as np

from core.conversations import messages as chat
from core.training import data

_ROLES = {'human': 'user', 'gpt': 'assistant', 'system': 'system'}
_LISTED = 10  # bad rows in one error message


class Rows:
  """The rows of a file by number, parsed on access.

  `rows[i]` is (messages, images, videos) as `core.conversations.messages.parse` takes them, media as paths.

  Raises:
    FileNotFoundError: no such file, or (on access) a missing image or video.
    ValueError: an unknown kind of file or an empty one, or (on access) a bad row; the message begins with file and row.
  """

  def __init__(
    self, path: str | os.PathLike, root: str | os.PathLike | None = None, *, share: float = 1.0, seed: int = 0
  ):
    """root: the folder that media paths are relative to; by default the file's own.

    share: below 1, that share of the rows, rounded down but at least one, chosen at random with `seed`.
    """
    self.records = data.source(path)
    self.root = os.path.dirname(path)
    if root is not None:
      self.root = os.fspath(root)
    if share < 1:
      total = len(self.records)
      size = max(1, int(total * share))
      rng = np.random.default_rng(seed)
      chosen = rng.choice(total, size, replace=False)
      self.records = data.Subset(self.records, np.sort(chosen))

  def __len__(self) -> int:
    return len(self.records)

  def __getitem__(self, i: int) -> tuple[list[dict], list[str], list[Any]]:
    row = _without_nulls(self.records[i])
    try:
      messages, images, videos = parse_row(row)
      chat.parse(messages, images, videos)
    except ValueError as error:
      raise ValueError(f'{self.where(i)}: {error}') from error
    find = functools.partial(self._find, i)
    rooted = [_rooted(message, find) for message in messages]
    return rooted, list(map(find, images)), list(map(find, videos))

  def where(self, i: int) -> str:
    """The place of row i in its file, for error messages."""
    return self.records.place(i)

  def check(self) -> None:
    """Reads every row and checks that every file it names exists; one ValueError lists the bad rows."""
    problems = []
    for i in range(len(self)):
      try:
        self[i]
      except (ValueError, FileNotFoundError) as error:
        problems.append(str(error))
    if not problems:
      return
    lines = [f'{len(problems)} of {len(self)} rows cannot be used:', *problems[:_LISTED]]
    if len(problems) > _LISTED:
      lines.append(f'… and {len(problems) - _LISTED} more')
    raise ValueError('\n'.join(lines))

  def _find(self, i: int, name: str) -> str:
    if name.startswith('data:'):
      return name
    path = os.path.join(self.root, name)
    if not os.path.exists(path):
      raise FileNotFoundError(f'{self.where(i)}: names {path}, which does not exist')
    return path


def _rooted(message: dict, find) -> dict:
  """The message with the paths in its image and video parts as `find` resolves them."""
  if isinstance(message['content'], str):
    return message

  def resolve(part: dict) -> dict:
    kind = part['type']
    if kind in chat.MEDIA and isinstance(part.get(kind), str):
      return part | {kind: find(part[kind])}
    return part

  return message | {'content': [resolve(part) for part in message['content']]}


def _without_nulls(value):
  """The value without keys that are null: Parquet has every key in every row, where JSON leaves it out."""
  if isinstance(value, dict):
    return {key: _without_nulls(item) for key, item in value.items() if item is not None}
  if isinstance(value, list):
    return [_without_nulls(item) for item in value]
  return value


def parse_row(row: dict) -> tuple[list[dict], list[str], list[str]]:
  """(messages, image paths, video paths) of one row of either format.

  Raises:
    ValueError: a row of neither format, or no training example (it must end with a turn of the assistant).
  """
  if ('conversations' in row) == ('messages' in row):
    raise ValueError('a row must be an object with either "conversations" or "messages"')
  key = 'messages' if 'messages' in row else 'conversations'
  turns = row[key]
  if not isinstance(turns, list) or not turns:
    raise ValueError(f'"{key}" must be a non-empty list')
  messages = turns
  speaker = 'assistant'
  if key == 'conversations':
    messages = [_message(n, turn) for n, turn in enumerate(turns)]
    speaker = 'gpt'
  last = messages[-1]
  if not isinstance(last, dict) or last.get('role') != 'assistant':
    raise ValueError(f'"{key}" must end with a turn of the {speaker}')
  if 'image' in row and 'images' in row:
    raise ValueError('a row has either "image" or "images"')
  image_key = 'images' if 'images' in row else 'image'
  return messages, _paths(row, image_key), _paths(row, 'video')


def _message(n: int, turn: dict) -> dict:
  if not _is_turn(turn):
    roles = ' | '.join(_ROLES)
    raise ValueError(f'turn {n} must be {{"from": {roles}, "value": text}}, not {turn!r:.80}')
  return {'role': _ROLES[turn['from']], 'content': turn['value']}


def _is_turn(turn: Any) -> bool:
  """Whether a value is a turn of a known speaker with a text."""
  if not isinstance(turn, dict):
    return False
  return turn.get('from') in _ROLES and isinstance(turn.get('value'), str)


def _paths(row: dict, key: str) -> list[str]:
  value = row.get(key)
  if value is None:
    return []
  paths = value
  if isinstance(value, str):
    paths = [value]
  if not isinstance(paths, list) or not all(map(_is_path, paths)):
    raise ValueError(f'"{key}" must be a path or a list of paths, not {value!r:.80}')
  return paths


def _is_path(value: Any) -> bool:
  return isinstance(value, str) and value != ''
