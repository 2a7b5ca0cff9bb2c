"""What two answers settle together: hats, letters that may be functions, units, which names do not
commute."""

import dataclasses

from bench.seed.algebra.canonical import MAX_NODES, Context, canonical
from bench.seed.nodes import (
  ONE,
  Budget,
  Name,
  Node,
  TooLarge,
  depth,
  mul,
  names,
  number,
  power,
  rewrite,
  walk,
)
from bench.seed.reading.units import Unit

MAX_DEPTH = 600
# About three seconds of work: one step is a cell of an edit distance, a thirtieth of a function's value.
STEPS = 10_000_000


@dataclasses.dataclass
class Pair:
  """Two trees that share one context, before (raw) and in canonical form."""

  raw: tuple[Node, Node]
  reference: Node
  prediction: Node
  context: Context


def settle(reference: Node, prediction: Node, *, hats: bool) -> tuple[Node, Node, frozenset[Name]]:
  """Both trees with ambiguous notation resolved, and the names that do not commute. Raises TooLarge."""
  sides = [_checked(reference), _checked(prediction)]
  products = _bare(sides[0]) | _bare(sides[1])
  sides = [rewrite(s, lambda n: _resolve_call(n, products)) for s in sides]
  united = all(any(n.head == 'unit' for n in walk(s)) for s in sides)
  sides = [rewrite(s, lambda n: _resolve_unit(n, united)) for s in sides]
  if not hats:
    found = [{n for n in names(s) if 'hat' in n.marks} for s in sides]
    sides = [rewrite(s, lambda n, keep=other: _drop_hat(n, keep)) for s, other in zip(sides, found[::-1])]
  return sides[0], sides[1], _ordered(reference, prediction, sides)


def _checked(node: Node) -> Node:
  count = sum(1 for _ in walk(node))
  if count > MAX_NODES:
    raise TooLarge(f'{count} nodes, at most {MAX_NODES} are scored')
  if depth(node) > MAX_DEPTH:
    raise TooLarge('an expression nested too deeply')
  return node


def _bare(node: Node) -> set[Name]:
  """Names that stand somewhere without a bracket after them: such a letter is no function."""
  applied = {id(n.args[0]) for n in walk(node) if n.head == 'call'}
  return {n.value for n in walk(node) if n.head == 'symbol' and id(n) not in applied}


def _resolve_call(node: Node, products: set[Name]) -> Node:
  if node.head != 'call':
    return node
  if node.value == 'weak' and node.args[0].value in products:
    return mul(*node.args)
  return node._replace(value=None)


def _resolve_unit(node: Node, united: bool) -> Node:
  """A unit beside a number as its factor and base units where both answers have units, else as nothing."""
  if node.head != 'unit':
    return node
  unit: Unit = node.value
  if not united:
    return ONE
  bases = (power(Node('symbol', (), Name('unit', (str(k),))), number(p)) for k, p in enumerate(unit.powers) if p)
  return mul(number(unit.factor), *bases)


def _without(name: Name, mark: str) -> Name:
  return name._replace(marks=tuple(m for m in name.marks if m != mark))


def _drop_hat(node: Node, keep: set[Name]) -> Node:
  if node.head == 'symbol' and 'hat' in node.value.marks and node.value not in keep:
    return node._replace(value=_without(node.value, 'hat'))
  return node


def _ordered(reference: Node, prediction: Node, sides: list[Node]) -> frozenset[Name]:
  """Operators: names with a hat or a dagger somewhere in the pair, and the same names without. One alone
  commutes."""
  marked = {
    n
    for t in (reference, prediction)
    for n in names(t)
    if ('hat' in n.marks or '†' in n.marks) and 'vec' not in n.marks
  }
  bases = {_without(_without(n, 'hat'), '†') for n in marked}
  found = frozenset(n for t in sides for n in names(t) if _without(_without(n, 'hat'), '†') in bases)
  return found if len(found) > 1 else frozenset()


def pair(reference: Node, prediction: Node, ordered: frozenset[Name], budget: Budget) -> Pair:
  """Both settled trees in canonical form."""
  context = Context(_ranks(reference, prediction), ordered, budget)
  return Pair((reference, prediction), canonical(reference, context), canonical(prediction, context), context)


def _ranks(reference: Node, prediction: Node) -> dict[Name | str, float]:
  """The place of each letter in sorted terms: by first appearance in the reference.

  A letter that only the prediction has takes the place of one that it lacks, so that answers which differ by
  a
  letter are sorted alike and the edit distance sees one change.
  """
  theirs, ours = _letters(reference), _letters(prediction)
  rank: dict[Name | str, float] = {letter: float(k) for k, letter in enumerate(theirs)}
  missing = [letter for letter in theirs if letter not in set(ours)]
  for k, letter in enumerate(x for x in ours if x not in rank):
    rank[letter] = rank[missing[k]] + 0.5 if k < len(missing) else len(theirs) + float(k)
  return rank


def _letters(node: Node) -> list[Name | str]:
  return list(
    dict.fromkeys(n.value if n.head == 'symbol' else n.head for n in walk(node) if not n.args and n.head != 'number')
  )


def branches(node: Node) -> tuple[Node, ...]:
  """The values a ± stands for: the upper and the lower branch, or the tree alone without one."""
  if not any(n.head in ('pm', 'mp') for n in walk(node)):
    return (node,)
  return tuple(rewrite(node, lambda n, up=up: _branch(n, up)) for up in (True, False))


def _branch(node: Node, upper: bool) -> Node:
  if node.head not in ('pm', 'mp'):
    return node
  return node.args[0] if (node.head == 'pm') == upper else mul(number(-1), node.args[0])
