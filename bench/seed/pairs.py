"""Notation that only a pair of answers resolves: hats, letters that may be functions, units, operators."""

import dataclasses
import functools

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
# About three seconds of work. One step is a cell of an edit distance; a function's value takes thirty.
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
  a = _checked(reference)
  b = _checked(prediction)
  resolve_call = functools.partial(_resolve_call, products=_bare(a) | _bare(b))
  a = rewrite(a, resolve_call)
  b = rewrite(b, resolve_call)
  resolve_unit = functools.partial(_resolve_unit, have_units=_has_unit(a) and _has_unit(b))
  a = rewrite(a, resolve_unit)
  b = rewrite(b, resolve_unit)
  if not hats:  # a hat counts only if both answers have it
    hats_a = _hats(a)
    hats_b = _hats(b)
    a = rewrite(a, functools.partial(_drop_hat, keep=hats_b))
    b = rewrite(b, functools.partial(_drop_hat, keep=hats_a))
  return a, b, _ordered(reference, prediction, (a, b))


def _has_unit(node: Node) -> bool:
  return any(n.head == 'unit' for n in walk(node))


def _hats(node: Node) -> set[Name]:
  """The names with a hat."""
  return {name for name in names(node) if 'hat' in name.marks}


def _checked(node: Node) -> Node:
  count = sum(1 for _ in walk(node))
  if count > MAX_NODES:
    raise TooLarge(f'{count} nodes, at most {MAX_NODES} are scored')
  if depth(node) > MAX_DEPTH:
    raise TooLarge('an expression nested too deeply')
  return node


def _bare(node: Node) -> set[Name]:
  """Names that occur without a bracket after them: such a letter is no function."""
  applied = {id(n.args[0]) for n in walk(node) if n.head == 'call'}
  return {n.value for n in walk(node) if n.head == 'symbol' and id(n) not in applied}


def _resolve_call(node: Node, products: set[Name]) -> Node:
  if node.head != 'call':
    return node
  if node.value == 'weak' and node.args[0].value in products:
    return mul(*node.args)
  return node._replace(value=None)


def _resolve_unit(node: Node, have_units: bool) -> Node:
  """A unit as its factor times base units if both answers have units, else as 1."""
  if node.head != 'unit':
    return node
  if not have_units:
    return ONE
  unit: Unit = node.value
  bases = []
  for k, exponent in enumerate(unit.powers):
    if exponent:
      base = Node('symbol', (), Name('unit', (str(k),)))
      bases.append(power(base, number(exponent)))
  return mul(number(unit.factor), *bases)


def _without(name: Name, *marks: str) -> Name:
  return name._replace(marks=tuple(mark for mark in name.marks if mark not in marks))


def _drop_hat(node: Node, keep: set[Name]) -> Node:
  if node.head == 'symbol' and 'hat' in node.value.marks and node.value not in keep:
    return node._replace(value=_without(node.value, 'hat'))
  return node


def _ordered(reference: Node, prediction: Node, settled: tuple[Node, Node]) -> frozenset[Name]:
  """Operators: names with a hat or a dagger in one of the answers, marked or not. A single one commutes."""
  operators = set()
  for name in (*names(reference), *names(prediction)):
    is_marked = 'hat' in name.marks or '†' in name.marks
    if is_marked and 'vec' not in name.marks:
      operators.add(_without(name, 'hat', '†'))
  used = [name for side in settled for name in names(side)]
  ordered = frozenset(name for name in used if _without(name, 'hat', '†') in operators)
  if len(ordered) > 1:
    return ordered
  return frozenset()


def pair(reference: Node, prediction: Node, ordered: frozenset[Name], budget: Budget) -> Pair:
  """Both settled trees in canonical form."""
  context = Context(rank=_ranks(reference, prediction), ordered=ordered, budget=budget)
  return Pair(
    raw=(reference, prediction),
    reference=canonical(reference, context),
    prediction=canonical(prediction, context),
    context=context,
  )


def _ranks(reference: Node, prediction: Node) -> dict[Name | str, float]:
  """The rank of each letter in sorted terms: its first appearance in the reference.

  A letter that only the prediction has takes the rank of one that it lacks, so that answers that differ by a letter are
  sorted alike and the edit distance counts one change.
  """
  letters = _letters(reference)
  others = _letters(prediction)
  rank: dict[Name | str, float] = {letter: float(k) for k, letter in enumerate(letters)}
  missing = [letter for letter in letters if letter not in others]
  added = [letter for letter in others if letter not in rank]
  for k, letter in enumerate(added):
    if k < len(missing):
      rank[letter] = rank[missing[k]] + 0.5
    else:
      rank[letter] = len(letters) + float(k)
  return rank


def _letters(node: Node) -> dict[Name | str, None]:
  """Symbols and constants in the order of their first appearance."""
  leaves = [n for n in walk(node) if not n.args and n.head != 'number']
  return dict.fromkeys(leaf.value if leaf.head == 'symbol' else leaf.head for leaf in leaves)


def branches(node: Node) -> tuple[Node, ...]:
  """The upper and the lower branch of a tree with ±, or the tree alone without one."""
  if not any(n.head in ('pm', 'mp') for n in walk(node)):
    return (node,)
  upper = rewrite(node, functools.partial(_branch, upper=True))
  lower = rewrite(node, functools.partial(_branch, upper=False))
  return upper, lower


def _branch(node: Node, upper: bool) -> Node:
  if node.head not in ('pm', 'mp'):
    return node
  is_plus = (node.head == 'pm') == upper
  if is_plus:
    return node.args[0]
  return mul(number(-1), node.args[0])
