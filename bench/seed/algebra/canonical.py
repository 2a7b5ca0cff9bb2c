"""The normal form of expressions under the exact rules of algebra: flat, collected, sorted.

Symbols are positive reals, as in the published scorer. Terms and factors are ordered by `rank`, the order in which a
pair's names first appear, so renaming symbols consistently changes nothing.
"""

import dataclasses
import itertools
import math
import operator
from fractions import Fraction

from bench.seed.algebra.binders import bind, pull_out
from bench.seed.nodes import (
  MINUS_ONE,
  ONE,
  ZERO,
  Budget,
  E,
  I,
  Name,
  Node,
  TooLarge,
  Unsupported,
  number,
  walk,
)

MAX_NODES = 2_000
_BINDING = frozenset(('sum', 'product', 'integral', 'limit', 'setbuilder', 'bigunion', 'bigintersection'))
# Operations that do not depend on the order of their arguments.
_UNORDERED = frozenset(('dot', 'min', 'max', 'cases', 'union', 'intersection'))
_MAX_BITS = 4_096
BOUND = '□'


@dataclasses.dataclass
class Context:
  """Shared by the canonical forms of one pair: ranks of names, names that do not commute, the remaining work."""

  rank: dict[Name | str, float]
  ordered: frozenset[Name]
  budget: Budget


def canonical(node: Node, context: Context) -> Node:
  """The canonical form. Raises Unsupported (division by zero) and TooLarge."""
  context.budget.spend(20)
  args = tuple(canonical(a, context) for a in node.args)
  if node.head == 'add':
    return _add(args, context)
  if node.head == 'mul':
    return _mul(args, context)
  if node.head == 'pow':
    return _pow(*args, context)
  if node.head in _BINDING:
    node = node._replace(args=args)
    context.budget.spend(60 * sum(1 for _ in walk(node)))
    node = bind(node)
  elif node.head == 'derivative':
    node = _derivative(node._replace(args=args), context)
  elif args:
    node = node._replace(args=args)
  constant, node = pull_out(node)
  if node.head in _UNORDERED:
    node = node._replace(args=tuple(sorted(node.args, key=lambda a: key(a, context))))
  if constant == ONE:
    return node
  return _mul((*_factors(constant), node), context)


def _derivative(node: Node, context: Context) -> Node:
  """Variables collected and sorted: the order of differentiation does not matter."""
  operand, *variables = node.args
  written, total = node.value
  orders: dict[Node, int] = {}
  for variable, order in zip(variables, written):
    orders[variable] = orders.get(variable, 0) + order
  ranked = sorted(orders, key=lambda variable: key(variable, context))
  collected = tuple(orders[variable] for variable in ranked)
  return Node(node.head, (operand, *ranked), (collected, total))


def key(node: Node, context: Context) -> tuple:
  """A sort key: powers next to their base, products by their factors, coefficients last."""
  factors = [factor for factor in _factors(node) if factor.head != 'number']
  numbers = [factor.value for factor in _factors(node) if factor.head == 'number']
  coefficient = numbers[0] if numbers else Fraction(1)
  return tuple(_factor_key(factor, context) for factor in factors), coefficient


def _factor_key(node: Node, context: Context) -> tuple:
  context.budget.spend(5)
  base, exponent = _base(node)
  if base.head == 'number':
    core = (0, base.value, '', ())
  elif not base.args:
    core = (2, _rank(base, context), '', ())
  else:
    core = (3, len(base.args), base.head, tuple(key(a, context) for a in base.args))
  if exponent == ONE:
    return core, ()
  return core, key(exponent, context)


def _base(node: Node) -> tuple[Node, Node]:
  """(base, exponent) of a factor; the exponent is 1 unless it is a power."""
  if node.head != 'pow':
    return node, ONE
  base, exponent = node.args
  return base, exponent


def _rank(leaf: Node, context: Context) -> float:
  if leaf.head != 'symbol':
    return context.rank.get(leaf.head, -1000.0)
  name = leaf.value
  if name.base == BOUND:
    return -int(name.sub[0])
  return context.rank.get(name, len(context.rank))


def _factors(node: Node) -> tuple[Node, ...]:
  if node.head == 'mul':
    return node.args
  return (node,)


def commutes(node: Node, context: Context) -> bool:
  """Whether a factor commutes with all others."""
  if not context.ordered:
    return True
  for n in walk(node):
    if n.head in ('matrix', 'ket', 'bra', 'adjoint'):
      return False
    if n.head == 'symbol' and n.value in context.ordered:
      return False
  return True


def split(term: Node) -> tuple[Fraction, Node]:
  """A term as its rational coefficient and the rest."""
  if term.head == 'number':
    return term.value, ONE
  if term.head == 'mul' and term.args[0].head == 'number':
    coefficient, *rest = term.args
    return coefficient.value, _product(tuple(rest))
  return Fraction(1), term


def _product(factors: tuple[Node, ...]) -> Node:
  """One or more factors as a node."""
  if len(factors) == 1:
    return factors[0]
  return Node('mul', factors)


def _scaled(coefficient: Fraction, rest: Node) -> Node:
  if coefficient == 0:
    return ZERO
  if rest == ONE:
    return number(coefficient)
  if coefficient == 1:
    return rest
  if rest.head == 'add':
    terms = map(split, rest.args)
    return Node('add', tuple(_scaled(coefficient * c, r) for c, r in terms))
  return Node('mul', (number(coefficient), *_factors(rest)))


def _add(terms: tuple[Node, ...], context: Context) -> Node:
  collected: dict[Node, Fraction] = {}
  for term in terms:
    parts = term.args if term.head == 'add' else (term,)
    for part in parts:
      coefficient, rest = split(part)
      collected[rest] = _bounded(collected.get(rest, 0) + coefficient)
  kept = []
  for rest, coefficient in collected.items():
    if coefficient:
      kept.append(_scaled(coefficient, rest))
    elif _infinite(rest):
      raise Unsupported('a difference of infinities')
  if not kept:
    return ZERO
  if len(kept) == 1:
    return kept[0]
  return Node('add', tuple(sorted(kept, key=lambda term: key(term, context))))


def _mul(factors: tuple[Node, ...], context: Context) -> Node:
  coefficient, powers, ordered = _collect(factors, context)
  parts = []
  for base, exponents in powers.items():
    part = base if exponents == [ONE] else _pow(base, _add(tuple(exponents), context), context)
    for piece in _factors(part):
      if piece.head == 'number':
        coefficient = _bounded(coefficient * piece.value)
      else:
        parts.append(piece)
  if coefficient == 0:
    if any(map(_infinite, parts)):
      raise Unsupported('zero times infinity')
    return ZERO
  parts.sort(key=lambda part: _factor_key(part, context))
  parts += _join_ordered(ordered, context)
  if not parts:
    return number(coefficient)
  return _scaled(coefficient, _product(tuple(parts)))


def _collect(factors: tuple[Node, ...], context: Context) -> tuple[Fraction, dict[Node, list[Node]], list[Node]]:
  """(rational coefficient, base → exponents, factors that do not commute) of a product, nested ones included."""
  coefficient = Fraction(1)
  powers: dict[Node, list[Node]] = {}
  ordered = []
  pending = list(reversed(factors))
  while pending:
    factor = pending.pop()
    if factor.head == 'mul':
      pending.extend(reversed(factor.args))
    elif factor.head == 'number':
      coefficient = _bounded(coefficient * factor.value)
    elif not commutes(factor, context):
      ordered.append(factor)
    else:
      base, exponent = _base(factor)
      powers.setdefault(base, []).append(exponent)
  return coefficient, powers, ordered


def _join_ordered(factors: list[Node], context: Context) -> list[Node]:
  """The factors in their order, adjacent equal ones that do not commute as a power."""
  powers = []
  for base, group in itertools.groupby(map(_base, factors), key=operator.itemgetter(0)):
    exponents = tuple(exponent for _, exponent in group)
    powers.append(_pow(base, _add(exponents, context), context))
  return [power for power in powers if power != ONE]


def _pow(base: Node, exponent: Node, context: Context) -> Node:
  if (exponent == ZERO and _infinite(base)) or (base == ONE and _infinite(exponent)):
    raise Unsupported('a power of infinity without a value')
  if exponent == ZERO:
    return ONE
  if exponent == ONE:
    return base
  if exponent.head != 'number':
    return Node('pow', (base, exponent))
  n = exponent.value
  if base.head == 'number':
    return _number_power(base.value, n)
  if base.head == 'i' and n.denominator == 1:
    cycle = (ONE, I, MINUS_ONE, Node('mul', (MINUS_ONE, I)))
    return cycle[int(n) % 4]
  if base.head == 'pow' and (n.denominator == 1 or _positive(base)):
    return _pow(base.args[0], _mul((base.args[1], exponent), context), context)
  if base.head == 'mul' and commutes(base, context):
    return _product_power(base, exponent, context)
  if base.head == 'infinity' and n < 0:
    return ZERO
  return Node('pow', (base, exponent))


def _product_power(base: Node, exponent: Node, context: Context) -> Node:
  """(ab)^n factor by factor: all for an integer n, else those known to be positive."""
  is_integer = exponent.value.denominator == 1
  powers = []
  rest = []
  for factor in base.args:
    if is_integer or _positive(factor):
      powers.append(_pow(factor, exponent, context))
    else:
      rest.append(factor)
  if not powers:
    return Node('pow', (base, exponent))
  if rest:
    kept = _mul(tuple(rest), context)
    powers.append(_pow(kept, exponent, context))
  return _mul(tuple(powers), context)


def _positive(node: Node) -> bool:
  if node.head == 'number':
    return node.value > 0
  if node.head == 'pow':
    return _positive(node.args[0]) and node.args[1].head == 'number'
  return node.head in ('symbol', 'pi', 'e')


def _number_power(base: Fraction, n: Fraction) -> Node:
  if base == 0:
    if n < 0:
      raise Unsupported('a division by zero')
    return ZERO
  if base == 1:
    return ONE
  bits = max(base.numerator.bit_length(), base.denominator.bit_length())
  is_small = bits * abs(n) <= _MAX_BITS
  if n.denominator == 1 and is_small:
    return number(base ** int(n))
  if n.denominator == 2 and base > 0 and is_small:
    root = Fraction(math.isqrt(base.numerator), math.isqrt(base.denominator))
    if root**2 == base:
      return number(root**n.numerator)
  return Node('pow', (number(base), number(n)))


def _infinite(node: Node) -> bool:
  """Whether infinity is a term or a factor, outside functions, sums over an index and limits."""
  if node.head in ('add', 'mul', 'pow'):
    return any(map(_infinite, node.args))
  return node.head == 'infinity'


def _bounded(value: Fraction) -> Fraction:
  if value.numerator.bit_length() + value.denominator.bit_length() > 3 * _MAX_BITS:
    raise TooLarge('a number beyond the digits that are kept')
  return value


__all__ = ['BOUND', 'MAX_NODES', 'Context', 'E', 'canonical', 'commutes', 'key', 'split']
