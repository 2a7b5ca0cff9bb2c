"""Labelled ordered trees of expressions, and the extended Zhang-Shasha edit distance of EED and SEED.

EED: PHYBench (arXiv 2504.16074), section on the expression edit distance; SEED: CMPhysBench (arXiv
2508.18124).
All single-node operations cost 1; removing or inserting a whole subtree is discounted.
"""

from bench.seed.nodes import Budget, E, Node, TooLarge

_NUMBER_LIKE = frozenset(('number', 'pi', 'e', 'i', 'infinity'))


class Flat:
  """A tree in post-order: labels, leftmost leaves, key roots, and what each whole subtree costs."""

  def __init__(self, node: Node):
    self.labels: list[tuple] = []
    self.left: list[int] = []
    self._visit(node)
    self.cost = [subtree_cost(k - left + 1) for k, left in enumerate(self.left)]
    last = {left: k for k, left in enumerate(self.left)}
    self.roots = sorted(last.values())

  def _visit(self, node: Node) -> int:
    children = [self._visit(c) for c in _children(node)]
    self.left.append(children[0] if children else len(self.labels))
    self.labels.append(_label(node))
    return self.left[-1]


def _exponential(node: Node) -> bool:
  """Whether a power is written as a function: exp(x), but e² for what may be a charge."""
  return node.head == 'pow' and node.args[0] == E and node.args[1].head != 'number'


def _children(node: Node) -> tuple[Node, ...]:
  if _exponential(node):
    return node.args[1:]
  return node.args


def _label(node: Node) -> tuple:
  if node.head in _NUMBER_LIKE:
    return ('number', node.head, node.value)
  if _exponential(node):
    return ('exp', None)
  return (node.head, node.value)


def subtree_cost(size: int) -> float:
  """What it costs to remove or insert a whole subtree of `size` nodes."""
  return min(size, 0.6 * (size - 5) + 5)


def distance(a: Flat, b: Flat, budget: Budget) -> float:
  """The extended edit distance between two trees. Raises TooLarge when the work exceeds the budget."""
  of_a = sum(k - a.left[k] + 1 for k in a.roots)
  of_b = sum(k - b.left[k] + 1 for k in b.roots)
  work = of_a * of_b
  if work > budget.steps:
    raise TooLarge('trees too large for an edit distance')
  budget.spend(work)
  between = [[0.0] * len(b.labels) for _ in a.labels]
  for i in a.roots:
    for j in b.roots:
      _forest(a, b, i, j, between)
  return between[-1][-1]


def _forest(a: Flat, b: Flat, i: int, j: int, between: list[list[float]]) -> None:
  """Distances between all prefixes of the forests under the key roots i and j; fills `between`."""
  la = a.left[i]
  lb = b.left[j]
  columns = range(lb, j + 1)
  # Rows and columns are shifted by one: row x - la + 1 is the forest up to node x, row 0 the empty one.
  top = [0.0]
  for y in columns:
    top.append(top[b.left[y] - lb] + b.cost[y])
  rows = [top]
  for x in range(la, i + 1):
    lx = a.left[x]
    cost_x = a.cost[x]
    label_x = a.labels[x]
    above = rows[-1]
    far = rows[lx - la]
    known = between[x]
    row = [far[0] + cost_x]
    whole = lx == la
    for y in columns:
      ly = b.left[y]
      c = y - lb
      best = above[c + 1] + 1
      if (d := row[c] + 1) < best:
        best = d
      if (d := far[c + 1] + cost_x) < best:
        best = d
      if (d := row[ly - lb] + b.cost[y]) < best:
        best = d
      if whole and ly == lb:
        if (d := above[c] + (label_x != b.labels[y])) < best:
          best = d
        known[y] = best
      elif (d := far[ly - lb] + known[y]) < best:
        best = d
      row.append(best)
    rows.append(row)


def tree_points(gap: float, size: int) -> float:
  """Points for a tree at distance `gap` from a reference tree of `size` nodes."""
  if gap == 0:
    return 100.0
  return max(0.0, 60 - 100 * gap / size)
