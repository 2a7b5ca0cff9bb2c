"""Features that enter a prompt among its tokens (images, audio), named by content so that equal content shares pages.

n names   D width of the decoder
"""

import bisect
import collections
import dataclasses
import hashlib
import threading
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from core import decoder


class Features(Protocol):
  """A source of embeddings that a model package hands to the engine.

  A name is a negative integer that identifies one embedding; equal content has equal names. All methods except `update`
  and `warm` may be called from several threads.
  """

  def name(self, prompt: Sequence[int], media: Sequence[Any]) -> np.ndarray:
    """The prompt, int64 [n], with its placeholder tokens replaced by the names of `media`: one more user of each.

    Raises ValueError if media and placeholders do not match.
    """

  def share(self, names: np.ndarray) -> None:
    """One more user of the content in these names, int64 [n]; names of tokens are ignored."""

  def release(self, names: np.ndarray) -> None:
    """One user less of the content in these names, int64 [n]; content without users may be dropped."""

  def encode(self, names: np.ndarray) -> None:
    """Computes the features of the content in these names, int64 [n], that are not known yet."""

  def embeddings(self, names: np.ndarray) -> np.ndarray:
    """Features [n, D] of negative names [n], encoded before."""

  def update(self, weights: Any) -> decoder.Params:
    """New weights of the whole model: recomputes the features of content in use, and returns the decoder's own part."""

  def warm(self) -> None:
    """Compiles everything it runs."""


@dataclasses.dataclass
class Item:
  """A piece of content: `count` tokens named from -1 - first down; payload: what is encoded, None if precomputed."""

  key: bytes  # of content and count
  first: int
  count: int
  payload: Any
  features: np.ndarray | None = None  # [count, D]
  users: int = 0


def digest(array: np.ndarray) -> bytes:
  """A fingerprint of an array's dtype, shape and content."""
  header = f'{array.dtype} {array.shape}'.encode()
  return hashlib.sha256(header + np.ascontiguousarray(array).tobytes()).digest()


class FeatureStore:
  """Content in use and the `spare` pieces used last, each encoded once: what most sources need.

  encode: (payloads, their counts) -> their features, a list of arrays [count, D]. `encoded` counts pieces so far.
  encoder: a lock held while content is encoded; hold it from replacing the weights of `encode`
  until `recompute` returns.
  """

  def __init__(self, encode: Callable[[list[Any], list[int]], Sequence[np.ndarray]], spare: int = 256):
    self._compute = encode
    self._spare = spare
    self._items: dict[bytes, Item] = {}
    self._starts: list[int] = []  # first names in use, ascending; their items are in _by_start
    self._by_start: dict[int, Item] = {}
    self._idle: collections.OrderedDict[bytes, Item] = collections.OrderedDict()  # least recently used first
    self._next = 0
    self._state = threading.RLock()
    self.encoder = threading.RLock()  # taken before _state, never after it
    self.encoded = 0

  def use(self, content: np.ndarray, count: int, *, precomputed: bool = False) -> np.ndarray:
    """The names, int64 [count], of a piece of content, which now has one user more.

    The same content with another count is another piece: its features differ.
    """
    key = digest(content) + count.to_bytes(8)
    with self._state:
      item = self._items.get(key)
      if item is None:
        item = self._add(key, content, count, precomputed)
      item.users += 1
      self._idle.pop(key, None)
      return -1 - np.arange(item.first, item.first + item.count)

  def share(self, names: np.ndarray) -> None:
    """One more user of each piece in these names."""
    with self._state:
      for item in self._in(names):
        item.users += 1

  def release(self, names: np.ndarray) -> None:
    """One user less of each piece in these names."""
    with self._state:
      for item in self._in(names):
        item.users -= 1
        if not item.users:
          self._idle[item.key] = item
      while len(self._idle) > self._spare:
        self._forget(self._idle.popitem(last=False)[1])

  def encode(self, names: np.ndarray) -> None:
    """Computes what is missing; a second thread that wants the same content waits for it."""
    with self.encoder:
      with self._state:
        pending = [item for item in self._in(names) if item.features is None]
      if not pending:
        return
      payloads = [item.payload for item in pending]
      features = self._compute(payloads, [item.count for item in pending])
      with self._state:
        for item, computed in zip(pending, features, strict=True):
          item.features = computed
        self.encoded += len(pending)

  def embeddings(self, names: np.ndarray) -> list[np.ndarray]:
    """The feature [D] of each name, int64 [n]."""
    found = []
    with self._state:
      for name in names.tolist():
        item = self._of(name)
        found.append(item.features[-1 - name - item.first])
    return found

  def recompute(self) -> None:
    """Drops features of earlier weights, but no precomputed ones, and encodes content in use again."""
    with self.encoder:
      with self._state:
        for item in self._items.values():
          if item.payload is not None:
            item.features = None
        used = [item.first for item in self._items.values() if item.users]
      self.encode(-1 - np.array(used, np.int64))

  @property
  def users(self) -> int:
    """The number of uses not released yet."""
    with self._state:
      return sum(item.users for item in self._items.values())

  def _add(self, key: bytes, content: np.ndarray, count: int, precomputed: bool) -> Item:
    payload, features = (None, content) if precomputed else (content, None)
    item = Item(key, self._next, count, payload, features)
    self._next += count
    self._items[key] = self._by_start[item.first] = item
    self._starts.append(item.first)
    return item

  def _forget(self, item: Item) -> None:
    del self._items[item.key], self._by_start[item.first]
    del self._starts[bisect.bisect_left(self._starts, item.first)]

  def _of(self, name: int) -> Item:
    at = bisect.bisect_right(self._starts, -1 - name) - 1
    return self._by_start[self._starts[at]]

  def _in(self, names: np.ndarray) -> list[Item]:
    """The pieces of content in some names, each once."""
    placed = -1 - names[names < 0]
    starts = np.unique(np.searchsorted(self._starts, placed, side='right') - 1)
    return [self._by_start[self._starts[i]] for i in starts.tolist()]
