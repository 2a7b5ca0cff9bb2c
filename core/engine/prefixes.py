"""Pages found by what they hold: a tree of token content, its least recently used leaves given up first.

A page is identified by all content up to and including it, so a hit is exact. The last page of a sequence may be
partly filled; a sequence that agrees with the beginning of a page only can copy it.
"""

import collections
import itertools

import numpy as np

from core.engine.pool import Pool


class Node:
  """A page and its content; its children continue it."""

  def __init__(self, page: int, content: np.ndarray, parent: 'Node | None'):
    self.page, self.content, self.parent = page, content, parent
    self.whole: dict[bytes, Node] = {}  # full pages
    self.partial: list[Node] = []

  def nodes(self):
    """All children."""
    yield from self.whole.values()
    yield from self.partial


def common(a: np.ndarray, b: np.ndarray) -> int:
  """Length of the common beginning."""
  n = min(len(a), len(b))
  equal = a[:n] == b[:n]
  return n if equal.all() else int(equal.argmin())


class Prefixes:
  """The cache; holds one reference to each of its pages."""

  def __init__(self, pool: Pool, page_size: int):
    self._pool, self._size = pool, page_size
    self._root = Node(-1, np.zeros(0, np.int64), None)
    self._age: collections.OrderedDict[Node, None] = collections.OrderedDict()  # oldest first

  def __len__(self) -> int:
    return len(self._age)

  def match(self, content: np.ndarray) -> tuple[list[int], tuple[int, int] | None]:
    """(full pages that begin `content`, and (page, tokens) to copy what follows from). Takes no references."""
    node, pages, at = self._root, [], 0
    while at + self._size <= len(content):
      child = node.whole.get(content[at : at + self._size].tobytes())
      if child is None:
        break
      node, at = child, at + self._size
      pages.append(node.page)
    rest, best, tokens = content[at : at + self._size], None, 0
    for child in node.nodes() if len(rest) else ():
      if (n := common(child.content, rest)) > tokens:
        best, tokens = child, n
      if tokens == len(rest):
        break
    if best is not None:
      self._touch(best)
    self._touch(node)
    return pages, None if best is None else (best.page, tokens)

  def insert(self, content: np.ndarray, pages: list[int]) -> None:
    """Remembers the pages that hold `content`, each referred to once more; those known by content stay as they are."""
    node = self._root
    for i, page in enumerate(pages[: -(-len(content) // self._size)]):
      own = content[i * self._size : (i + 1) * self._size]
      if len(own) == self._size:
        child = node.whole.get(own.tobytes())
        if child is None:
          child = self._add(page, own, node)
          node.whole[own.tobytes()] = child
        self._drop_covered(node, own)
        node = child
      elif all(common(child.content, own) < len(own) for child in node.nodes()):
        self._drop_covered(node, own)
        child = self._add(page, own, node)
        node.partial.append(child)
        node = child
    self._touch(node)

  def evict(self, pages: int) -> None:
    """Gives up oldest leaves that nothing else refers to until `pages` pages are free, as far as there are any."""
    while self._pool.free < pages:
      idle = (n for n in self._age if not n.whole and not n.partial and self._pool.references[n.page] == 1)
      leaves = list(itertools.islice(idle, pages - self._pool.free))
      if not leaves:
        return
      for leaf in leaves:
        self._remove(leaf)

  def clear(self) -> None:
    """Forgets everything, as when the weights change."""
    for node in self._age:
      self._pool.drop(node.page)
    self._age.clear()
    self._root = Node(-1, np.zeros(0, np.int64), None)

  def _add(self, page, content, parent) -> Node:
    self._pool.share(page)
    node = Node(page, content.copy(), parent)
    self._age[node] = None
    return node

  def _drop_covered(self, node: Node, content) -> None:
    """Partial pages that hold no more than the beginning of `content` are of no further use."""
    for child in list(node.partial):
      if common(child.content, content) == len(child.content):
        self._remove(child)

  def _remove(self, node: Node) -> None:
    parent = node.parent
    if len(node.content) == self._size:
      del parent.whole[node.content.tobytes()]
    else:
      parent.partial.remove(node)
    del self._age[node]
    self._pool.drop(node.page)

  def _touch(self, node: Node) -> None:
    """Marks a node and, as younger still, those above it."""
    while node.parent is not None:
      self._age.move_to_end(node)
      node = node.parent
