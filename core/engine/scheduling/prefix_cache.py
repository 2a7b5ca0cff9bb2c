"""The prefix cache: pages found by what they hold, in a tree, the least recently used leaves evicted first.

A page is identified by all content up to and including it, so a hit is exact. The last page of a sequence may be partly
filled; a sequence that agrees with only the beginning of a page can copy it.
"""

import bisect
import heapq
from typing import NamedTuple

import numpy as np

from core.engine.scheduling.content import NAME, Content
from core.engine.scheduling.pages import PagePool


class Node:
  """A page and the bytes of its content; its children continue it. `used` is when it was last looked up."""

  __slots__ = ('alive', 'children', 'key', 'keys', 'page', 'parent', 'queued', 'used')

  def __init__(self, page: int, key: bytes, parent: 'Node | None'):
    self.page, self.key, self.parent = page, key, parent
    self.children: dict[bytes, Node] = {}
    self.keys: list[bytes] = []  # of the children, sorted: the longest common beginning is next to where a key belongs
    self.used, self.alive, self.queued = 0, True, False


class Match(NamedTuple):
  """The full pages that begin a sequence, int32 [n], and the node of the last."""

  node: Node
  pages: np.ndarray


class Partial(NamedTuple):
  """A page whose first `tokens` tokens continue a match."""

  page: int
  tokens: int


def common(a: bytes, b: bytes) -> int:
  """Number of equal names that two keys begin with."""
  if a[:NAME] != b[:NAME]:  # neighbours in order seldom share even one
    return 0
  n = min(len(a), len(b))
  if a[:n] == b[:n]:
    return n // NAME
  equal = np.frombuffer(a, np.int64, n // NAME) == np.frombuffer(b, np.int64, n // NAME)
  return int(equal.argmin())


class PrefixCache:
  """Holds one reference to each of its pages. `compared` counts keys compared for a common beginning."""

  def __init__(self, pool: PagePool, page_size: int):
    pages = len(pool.references)
    self._pool, self._size = pool, page_size
    self._root = Node(-1, b'', None)
    self._node_of: list[Node | None] = [None] * pages
    self._leaf = np.zeros(pages, bool)  # pages of nodes without children
    self._idle: list[tuple[int, int, Node]] = []  # heap of leaves that may be evicted, least recently used first
    self._clock = 0
    self._size_now = 0
    self.compared = 0

  def __len__(self) -> int:
    return self._size_now

  @property
  def pages(self) -> list[int]:
    """The pages it refers to."""
    return [node.page for node in self._node_of if node is not None]

  def match(self, content: Content, stop: int) -> Match:
    """The full pages known among the first `stop` tokens. Takes no references.

    It continues from where this content, or another sample of its prompt, was found before.
    """
    node, pages = self._last_match(content, stop)
    found = []
    for i in range(len(pages), stop // self._size):
      child = node.children.get(content.page(i))
      if child is None:
        break
      node = child
      found.append(node.page)
    match = Match(node, np.concatenate([pages, np.array(found, np.int32)]) if found else pages)
    self._touch(node)
    self._note(content, match)
    return match

  def partial(self, content: Content, stop: int, match: Match) -> Partial | None:
    """The page to copy what follows a match from, if any child begins with it."""
    depth = len(match.pages)
    rest = content.part(depth, min(stop, (depth + 1) * self._size))
    keys = match.node.keys
    at = bisect.bisect_left(keys, rest)
    best = None
    for key in keys[max(at - 1, 0) : at + 1]:
      self.compared += 1
      tokens = common(key, rest)
      if tokens > (best.tokens if best else 0):
        child = match.node.children[key]
        best = Partial(child.page, tokens)
    if best:
      self._touch(self._node_of[best.page])
    return best

  def insert(
    self,
    content: Content,
    filled: int,
    pages: np.ndarray,
    at: Node | None = None,
    depth: int = 0,
    *,
    partial: bool,
  ) -> Node:
    """Lets others find the pages that hold the first `filled` tokens of a sequence.

    pages: int32, the sequence's, with a reference to each. One whose content the cache has already is replaced, in
    place, by the cache's page. at, depth: the node of the last page inserted before and the number of these pages, to
    continue from. partial: includes a last page that is not full. Returns the node of the last full page.
    """
    node = at or self._root
    while not node.alive:  # the cache was cleared since
      node, depth = node.parent, depth - 1
    full = filled // self._size
    for i in range(depth, full):
      page, key = pages.item(i), content.page(i)
      child = node.children.get(key)
      if child is None:
        if node.keys:
          self._drop_covered(node, key)
        child = self._add(page, key, node)
      elif child.page != page:
        self._pool.share_one(child.page)
        pages[i] = child.page
        self.release_one(page)
      node = child
    if depth < full and full * self._size <= content.prompt.length:
      content.prompt.matched = Match(node, pages[:full].copy())
    self._touch(node)
    if partial and filled % self._size:
      self._insert_partial(node, content.part(full, filled), pages.item(full))
    return node

  def _insert_partial(self, node: Node, key: bytes, page: int) -> None:
    at = bisect.bisect_left(node.keys, key)
    self.compared += 1
    if at < len(node.keys) and node.keys[at].startswith(key):
      return
    self._drop_covered(node, key)
    self._touch(self._add(page, key, node))

  def release(self, pages: np.ndarray) -> None:
    """Drops a sequence's references to its pages."""
    self._pool.drop(pages)
    idle = self._leaf[pages] & (self._pool.references[pages] == 1)
    for page in pages[idle].tolist():
      self._offer(self._node_of[page])

  def release_one(self, page: int) -> None:
    """`release` of one page."""
    if self._pool.drop_one(page) == 1 and self._leaf[page]:
      self._offer(self._node_of[page])

  def evict(self, pages: int) -> None:
    """Gives up the least recently used leaves that no sequence uses until `pages` are free, or none is left."""
    while self._pool.free < pages and self._idle:
      used, _, node = heapq.heappop(self._idle)
      node.queued = False
      if not node.alive or node.children or self._pool.references[node.page] != 1:
        continue  # offered again when it becomes a leaf that is not in use
      if node.used == used:
        self._remove(node)
      else:
        self._offer(node)

  def clear(self) -> None:
    """Forgets everything, as when the weights change."""
    for node in self._node_of:
      if node is not None:
        node.alive = False
    self._pool.drop(np.array(self.pages, np.int32))
    self._node_of = [None] * len(self._node_of)
    self._leaf[:] = False
    self._root.children, self._root.keys = {}, []
    self._idle, self._size_now = [], 0

  def _last_match(self, content: Content, stop: int) -> Match:
    """Where the content was found before, as far as that is still in the tree and within `stop` tokens."""
    node, pages = content.matched or content.prompt.matched or Match(self._root, np.zeros(0, np.int32))
    depth = len(pages)
    while not node.alive or depth * self._size > stop:
      node, depth = node.parent, depth - 1
    return Match(node, pages[:depth])

  def _note(self, content: Content, match: Match) -> None:
    within_prompt = len(match.pages) * self._size <= len(content.prompt)
    owner = content.prompt if within_prompt else content
    owner.matched = match
    if within_prompt:
      content.matched = None

  def _add(self, page: int, key: bytes, parent: Node) -> Node:
    self._pool.share_one(page)
    node = Node(page, key, parent)
    parent.children[key] = node
    bisect.insort(parent.keys, key)
    if parent is not self._root:
      self._leaf[parent.page] = False
    self._node_of[page], self._leaf[page] = node, True
    self._size_now += 1
    return node

  def _drop_covered(self, node: Node, key: bytes) -> None:
    """Removes a partial page that holds no more than the beginning of `key`.

    No child's key begins another's, so there is at most one, the nearest before `key` in order.
    """
    at = bisect.bisect_left(node.keys, key)
    self.compared += 1
    before = node.keys[at - 1] if at else key
    if len(before) < len(key) and key.startswith(before):
      self._remove(node.children[before])

  def _remove(self, node: Node) -> None:
    parent = node.parent
    del parent.children[node.key]
    del parent.keys[bisect.bisect_left(parent.keys, node.key)]
    node.alive = False
    self._node_of[node.page], self._leaf[node.page] = None, False
    self._size_now -= 1
    self._pool.drop_one(node.page)
    if parent is self._root or parent.children:
      return
    self._leaf[parent.page] = True
    parent.used = max(parent.used, node.used)  # using a page uses those before it
    if self._pool.references[parent.page] == 1:
      self._offer(parent)

  def _offer(self, node: Node) -> None:
    """Queues a leaf for eviction."""
    if not node.queued:
      node.queued = True
      heapq.heappush(self._idle, (node.used, node.page, node))

  def _touch(self, node: Node) -> None:
    self._clock += 1
    node.used = self._clock
