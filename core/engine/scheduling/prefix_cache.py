"""The prefix cache: pages by what they hold, in a radix tree; the least recently used leaves are evicted first.

A page is identified by all content up to and including it, so a hit is exact. Content is bytes: 8 of each token's name,
an int64. The last page of a sequence may be partly filled; a sequence that agrees with only the beginning of a page can
copy it.
"""

import bisect
import heapq
import operator
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from core.engine.scheduling.pages import PagePool

NAME = 8  # bytes of a name
KEY = operator.attrgetter('key')


class Node:
  """A run of full pages and its content, or one partly filled page; its children continue it.

  A node is cut in two where a sequence branches off or ends, so a sequence holds a path of whole nodes. stop: pages
  from the beginning up to the run's end. users: sequences that hold the path to this node. used: when it was last
  looked up. key: the content of its first page, or of what there is of it. children: sorted by their keys.
  """

  __slots__ = ('children', 'content', 'key', 'pages', 'parent', 'queued', 'stop', 'used', 'users')

  def __init__(self, pages: np.ndarray, content: bytes, key: bytes, parent: 'Node | None', stop: int):
    self.pages = pages
    self.content = content
    self.key = key
    self.parent = parent
    self.stop = stop
    self.children: (
      list[Node] | tuple
    ) = ()  # a list from the first child on: leaves are many, and lists cost collections
    self.users = self.used = 0
    self.queued = False

  def place(self, key: bytes) -> int:
    """Where the child with this key is or would be."""
    return bisect.bisect_left(self.children, key, key=KEY)

  def child(self, key: bytes) -> 'Node | None':
    """The child whose first page has this content."""
    at = self.place(key)
    if at == len(self.children):
      return None
    child = self.children[at]
    if child.key == key:
      return child
    return None


class Match(NamedTuple):
  """The full pages that begin a sequence, in parts; the node of the last page, and the number of pages."""

  node: Node
  stop: int
  pages: list[np.ndarray]


class Partial(NamedTuple):
  """A node whose first page begins with the `tokens` tokens that continue a match."""

  node: Node
  tokens: int


def common(a: bytes, b: bytes, start: int = 0) -> int:
  """Number of equal names that `a`, and `b` from byte `start` on, begin with."""
  n = min(len(a), len(b) - start)
  if b.startswith(a[:n], start):
    return n // NAME
  if a[:NAME] != b[start : start + NAME]:  # neighbours in order rarely share even one
    return 0
  count = n // NAME
  of_a = np.frombuffer(a, np.int64, count)
  of_b = np.frombuffer(b, np.int64, count, start)
  equal = of_a == of_b
  return int(equal.argmin())


class PrefixCache:
  """Holds one reference to each of its pages. `compared` counts keys compared for a common beginning."""

  def __init__(self, pool: PagePool, page_size: int):
    self._pool = pool
    self._size = page_size
    self._width = page_size * NAME
    self._root = Node(np.zeros(0, np.int32), b'', b'', None, 0)
    self._root.users = 1  # never evicted
    self._idle: list[tuple[int, int, Node]] = []  # heap of leaves without users, least recently used first
    self._clock = self._pushed = 0
    self.compared = 0

  def __len__(self) -> int:
    return len(self.pages)

  @property
  def pages(self) -> list[int]:
    """The pages it refers to."""
    return [page for node in self.nodes() for page in node.pages.tolist()]

  def nodes(self) -> Iterator[Node]:
    """All nodes."""
    pending = [self._root]
    while pending:
      node = pending.pop()
      yield node
      pending += node.children

  def match(self, content: bytes) -> Match:
    """The known pages that begin the content of full pages. Valid until pages are inserted or evicted."""
    node = self._root
    stop = 0
    pages = []
    while stop == node.stop:
      start = stop * self._width
      child = node.child(content[start : start + self._width])
      if child is None:
        break
      same = common(child.content, content, start) // self._size
      pages.append(child.pages[:same])
      node = child
      stop = stop + same
    self._touch(node)
    return Match(node, stop, pages)

  def hold(self, match: Match) -> Node:
    """Protects matched pages from eviction, until `release` of the node that is returned."""
    node = match.node
    if match.stop < node.stop:
      node = self._cut(node, match.stop)
    node.users += 1
    return node

  def release(self, node: Node) -> None:
    """Ends a hold."""
    node.users -= 1
    self._offer(node)

  def partial(self, node: Node, content: bytes) -> Partial | None:
    """The page to copy the content that follows a node from, if any child begins with it."""
    at = node.place(content)
    best = None
    for near in node.children[max(at - 1, 0) : at + 1]:
      self.compared += 1
      tokens = common(near.key, content)
      if tokens > (best.tokens if best else 0):
        best = Partial(near, tokens)
    if best:
      self._touch(best.node)
    return best

  def insert(self, node: Node, content: bytes, pages: np.ndarray) -> Node:
    """Lets others find the pages of a sequence that continue `node`, which the sequence holds.

    content: of these pages, the last of which may be partly filled. pages: int32, with a reference to each; the
    references to full pages become the cache's. A full page whose content the cache has already is replaced, in place,
    by the cache's page. Returns the node of the last full page, which the sequence now holds instead.
    """
    held = node
    start = 0
    full = len(content) // self._width
    while start < full:
      child = node.child(content[start * self._width : (start + 1) * self._width])
      if child is None:
        node = self._add(node, content[start * self._width : full * self._width], pages[start:full].copy())
        break
      node = self._shared(child, content, start, pages)
      start += len(node.pages)
    if full * self._width < len(content):
      self._insert_partial(node, content[full * self._width :], pages[full : full + 1].copy())
    self._touch(node)
    if node is not held:
      node.users += 1
      self.release(held)
    return node

  def evict(self, pages: int) -> None:
    """Gives up the least recently used leaves that no sequence holds until `pages` are free, or none is left."""
    while self._pool.free < pages and self._idle:
      used, _, node = heapq.heappop(self._idle)
      node.queued = False
      if node.users or node.children or node.parent is None:
        continue  # offered again when it becomes a leaf that is not in use
      if node.used == used:
        self._shorten(node, pages - self._pool.free)
      self._offer(node)

  def clear(self) -> None:
    """Gives up all pages that no sequence holds."""
    self.evict(len(self._pool.references))

  def _shared(self, child: Node, content: bytes, start: int, pages: np.ndarray) -> Node:
    """The node of the pages of `child` that the content from page `start` on agrees with, put in place of `pages`."""
    same = common(child.content, content, start * self._width) // self._size
    begin = child.stop - len(child.pages)
    if same < len(child.pages):
      child = self._cut(child, begin + same)
    duplicates = pages[start : start + same]
    self._pool.drop(duplicates)
    duplicates[:] = child.pages
    return child

  def _insert_partial(self, node: Node, key: bytes, page: np.ndarray) -> None:
    at = node.place(key)
    self.compared += 1
    if at < len(node.children) and node.children[at].key.startswith(key):
      return
    self._pool.share_one(page.item())
    self._offer(self._add(node, key, page))

  def _add(self, parent: Node, content: bytes, pages: np.ndarray) -> Node:
    key = content[: self._width]
    node = Node(pages, content, key, parent, parent.stop + len(pages))
    self._touch(node)
    if not parent.children:
      parent.children = [node]
      return node
    at = parent.place(key)
    parent.children.insert(at, node)
    if at:
      self._drop_covered(parent.children[at - 1], key)
    return node

  def _drop_covered(self, before: Node, key: bytes) -> None:
    """Removes a partial page that holds no more than the beginning of `key`.

    before: the child that `key` follows. No child's key begins another's, so there is no other such child.
    """
    self.compared += 1
    if key.startswith(before.key):
      self._shorten(before, 1)

  def _cut(self, node: Node, stop: int) -> Node:
    """Splits a run after page `stop`. The node keeps the second part and its holds; returns that of the first."""
    parent = node.parent
    pages = len(node.pages) - (node.stop - stop)
    first = Node(node.pages[:pages], node.content[: pages * self._width], node.key, parent, stop)
    first.used = node.used
    first.children = [node]
    parent.children[parent.place(node.key)] = first
    node.parent = first
    node.pages = node.pages[pages:]
    node.content = node.content[pages * self._width :]
    node.key = node.content[: self._width]
    return first

  def _shorten(self, node: Node, pages: int) -> None:
    """Gives up the last pages of a leaf, and the leaf with its last one."""
    kept = max(len(node.pages) - pages, 0)
    self._pool.drop(node.pages[kept:])
    if kept:
      node.stop -= len(node.pages) - kept
      node.pages = node.pages[:kept]
      node.content = node.content[: kept * self._width]
      return
    parent = node.parent
    del parent.children[parent.place(node.key)]
    node.parent = None
    parent.used = max(parent.used, node.used)  # using a page uses those before it
    self._offer(parent)

  def _offer(self, node: Node) -> None:
    """Queues a node for eviction if it is a leaf without users."""
    if node.users or node.children or node.queued or node.parent is None:
      return
    node.queued = True
    self._pushed += 1
    heapq.heappush(self._idle, (node.used, self._pushed, node))

  def _touch(self, node: Node) -> None:
    self._clock += 1
    node.used = self._clock
