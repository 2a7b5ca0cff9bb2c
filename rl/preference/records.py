"""Preference pairs as files: the record format of MMPR (OpenGVLab, arXiv 2411.10442).

A JSONL, Parquet or ArrayRecord row is `{"image": str | [str], "question": "<image>\\n…", "chosen": …, "rejected": …,
"answer_gt": …, "meta": {…}}`; image, answer_gt and meta may be missing or null, and other keys are ignored. Media are
relative to a root folder.
"""

import dataclasses
import json
import os
import pathlib
from collections.abc import Iterable
from typing import Any

from core.conversations import messages as chat
from core.conversations.rows import Rows, parse_row
from core.training import record


@dataclasses.dataclass(frozen=True)
class Pair:
  """A question and two responses to it, the first the better one.

  messages and images: as `rl.policy.Policy.prompt` takes them, ending with the user's turn. answer: the right one, if
  it is known. meta: where the pair comes from.
  """

  messages: list[dict]
  images: list[Any]
  chosen: str
  rejected: str
  answer: str = ''
  meta: dict = dataclasses.field(default_factory=dict)


class Records(Rows):
  """The pairs of an MMPR file by number, read on access; images stay paths. Errors as those of `Rows`."""

  def __getitem__(self, i: int) -> Pair:
    row = {key: value for key, value in self.records[i].items() if value is not None}
    try:
      pair = _pair(row)
      chat.parse(pair.messages, pair.images)
    except ValueError as error:
      raise ValueError(f'{self.where(i)}: {error}') from error
    return dataclasses.replace(pair, images=[self._find(i, name) for name in pair.images])


def _pair(row: dict) -> Pair:
  for key in ('question', 'chosen', 'rejected'):
    if not isinstance(row.get(key), str):
      raise ValueError(f'"{key}" must be a text, not {row.get(key)!r:.80}')
  if row['chosen'] == row['rejected']:
    raise ValueError('"chosen" and "rejected" are the same text')
  talk = [{'role': 'user', 'content': row['question']}, {'role': 'assistant', 'content': row['chosen']}]
  messages, images, _ = parse_row({'messages': talk, 'image': row.get('image')})
  answer = row.get('answer_gt', '')
  meta = row.get('meta', {})
  return Pair(
    messages[:-1],
    images,
    row['chosen'],
    row['rejected'],
    str(answer),
    meta if isinstance(meta, dict) else {'meta': meta},
  )


def write(path: str | os.PathLike, pairs: Iterable[Pair]) -> int:
  """Writes pairs of one text turn as an MMPR file, and Pillow images as PNG files in a folder; returns how many.

  The file appears only when all the images it names are written. Raises ValueError for a pair the format cannot hold.
  """
  path = pathlib.Path(path)
  folder = path.with_suffix('')
  folder.mkdir(parents=True, exist_ok=True)
  lines = []
  for n, pair in enumerate(pairs):
    if len(pair.messages) != 1 or not isinstance(pair.messages[0]['content'], str):
      raise ValueError(f'pair {n} has {len(pair.messages)} messages: expected one whose content is text')
    images = [_save(image, folder / f'{n:06d}_{k}.png') for k, image in enumerate(pair.images)]
    lines.append(
      json.dumps(
        {
          'image': images,
          'question': pair.messages[0]['content'],
          'chosen': pair.chosen,
          'rejected': pair.rejected,
          'answer_gt': pair.answer,
          'meta': pair.meta,
        },
        ensure_ascii=False,
      )
      + '\n'
    )
  record.replace(path, ''.join(lines))
  return len(lines)


def _save(image, path: pathlib.Path) -> str:
  """The name of an image relative to the records' folder; a path stays what it is, made absolute."""
  if isinstance(image, (str, os.PathLike)):
    return os.path.abspath(image)
  image.save(path)
  return f'{path.parent.name}/{path.name}'
