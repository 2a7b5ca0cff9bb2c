"""Replies of a judge on disk, so that no question is asked twice."""

import hashlib
import json
import pathlib
import threading
from collections.abc import Sequence
from typing import Any

from PIL import Image

EXPECTED = 'expected a JSON object with key and reply, both texts'


def key_of(parts: Sequence[str], images: Sequence[Image.Image]) -> str:
  """Identifies a question: texts, and images by mode, size and pixels."""
  digest = hashlib.sha256(json.dumps(list(parts)).encode())
  for image in images:
    digest.update(f'{image.mode} {image.size} '.encode())
    digest.update(image.tobytes())
  return digest.hexdigest()


class Replies:
  """A file of one JSON line a reply: {'key', 'reply', …}. Safe to use from several threads, not from several processes.

  A last line that a crash has cut short is ignored. Raises ValueError for any other line that is not such an object.
  """

  def __init__(self, path: str | pathlib.Path):
    self._path = pathlib.Path(path)
    self._lock = threading.Lock()
    self._replies = self._read()

  def _read(self) -> dict[str, str]:
    if not self._path.exists():
      return {}
    text = self._path.read_text(encoding='utf-8')
    *lines, torn = text.split('\n')
    if torn:
      self._path.write_text(text[: len(text) - len(torn)], encoding='utf-8')
    replies = {}
    for number, line in enumerate(lines, 1):
      try:
        entry = json.loads(line)
        key, reply = entry['key'], entry['reply']
      except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f'{self._path}, line {number}: {EXPECTED} ({error!r})') from None
      if not isinstance(key, str) or not isinstance(reply, str):
        raise ValueError(f'{self._path}, line {number}: {EXPECTED}')
      replies[key] = reply
    return replies

  def __len__(self) -> int:
    return len(self._replies)

  def get(self, key: str) -> str | None:
    """The reply to a question, or None."""
    return self._replies.get(key)

  def add(self, key: str, reply: str, **notes: Any) -> None:
    """Keeps a reply; notes: further fields of its line, for readers."""
    line = json.dumps({'key': key, 'reply': reply, **notes}, ensure_ascii=True)
    with self._lock:
      self._replies[key] = reply
      self._path.parent.mkdir(parents=True, exist_ok=True)
      with self._path.open('a', encoding='utf-8') as file:
        file.write(line + '\n')
