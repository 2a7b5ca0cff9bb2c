"""One form for expressions that the exact rules of algebra make equal: flat, collected, sorted.

Symbols are positive reals here, as in the published scorer. The order of terms and factors comes from `rank`,
the
order in which a pair's names first appear, so renaming symbols consistently changes nothing.
"""

import dataclasses
import math
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
# Operations whose arguments may change places.
_UNORDERED = frozenset(('dot', 'min', 'max', 'cases', 'union', 'intersection'))
_MAX_BITS = 4_096
BOUND = '□'


@dataclasses.dataclass
class Context:
  """What canonical forms of one pair share: the rank of each name, the names that do not commute, the work
  left."""

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
  return node if constant == ONE else _mul((*_factors(constant), node), context)


def _derivative(node: Node, context: Context) -> Node:
  """Variables collected and sorted: the order of differentiation does not matter."""
  operand, *variables = node.args
  orders: dict[Node, int] = {}
  for variable, order in zip(variables, node.value[0]):
    orders[variable] = orders.get(variable, 0) + order
  ranked = sorted(orders, key=lambda v: key(v, context))
  return Node(node.head, (operand, *ranked), (tuple(orders[v] for v in ranked), node.value[1]))


def key(node: Node, context: Context) -> tuple:
  """A sort key: powers beside their base, products by their factors, coefficients last."""
  factors = [f for f in _factors(node) if f.head != 'number']
  coefficient = next((f.value for f in _factors(node) if f.head == 'number'), Fraction(1))
  return (tuple(_factor_key(f, context) for f in factors), coefficient)


def _factor_key(node: Node, context: Context) -> tuple:
  context.budget.spend(5)
  base, exponent = node.args if node.head == 'pow' else (node, ONE)
  if base.head == 'number':
    core = (0, base.value, '', ())
  elif not base.args:
    core = (2, _rank(base, context), '', ())
  else:
    core = (3, len(base.args), base.head, tuple(key(a, context) for a in base.args))
  return core, () if exponent == ONE else key(exponent, context)


def _rank(leaf: Node, context: Context) -> float:
  if leaf.head != 'symbol':
    return context.rank.get(leaf.head, -1000.0)
  name = leaf.value
  return -int(name.sub[0]) if name.base == BOUND else context.rank.get(name, len(context.rank))


def _factors(node: Node) -> tuple[Node, ...]:
  return node.args if node.head == 'mul' else (node,)


def commutes(node: Node, context: Context) -> bool:
  """Whether factors may pass this one."""
  return not context.ordered or not any(
    n.head in ('matrix', 'ket', 'bra', 'adjoint') or (n.head == 'symbol' and n.value in context.ordered)
    for n in walk(node)
  )


def split(term: Node) -> tuple[Fraction, Node]:
  """A term as its rational coefficient and the rest."""
  if term.head == 'number':
    return term.value, ONE
  if term.head == 'mul' and term.args[0].head == 'number':
    rest = term.args[1:]
    return term.args[0].value, rest[0] if len(rest) == 1 else Node('mul', rest)
  return Fraction(1), term


def _scaled(coefficient: Fraction, rest: Node) -> Node:
  if coefficient == 0:
    return ZERO
  if rest == ONE:
    return number(coefficient)
  if coefficient == 1:
    return rest
  if rest.head == 'add':
    return Node('add', tuple(_scaled(coefficient * c, r) for c, r in map(split, rest.args)))
  return Node('mul', (number(coefficient), *_factors(rest)))


def _add(terms: tuple[Node, ...], context: Context) -> Node:
  collected: dict[Node, Fraction] = {}
  for term in terms:
    for part in term.args if term.head == 'add' else (term,):
      coefficient, rest = split(part)
      collected[rest] = _bounded(collected.get(rest, 0) + coefficient)
  if any(not c and _infinite(r) for r, c in collected.items()):
    raise Unsupported('a difference of infinities')
  parts = [_scaled(c, r) for r, c in collected.items() if c]
  if len(parts) < 2:
    return parts[0] if parts else ZERO
  return Node('add', tuple(sorted(parts, key=lambda p: key(p, context))))


def _mul(factors: tuple[Node, ...], context: Context) -> Node:
  coefficient, powers, ordered = Fraction(1), {}, []
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
      base, exponent = factor.args if factor.head == 'pow' else (factor, ONE)
      powers.setdefault(base, []).append(exponent)
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
  parts.sort(key=lambda p: _factor_key(p, context))
  parts += _join_ordered(ordered, context)
  if not parts:
    return number(coefficient)
  return _scaled(coefficient, parts[0] if len(parts) == 1 else Node('mul', tuple(parts)))


def _join_ordered(factors: list[Node], context: Context) -> list[Node]:
  """Neighbouring equal factors that do not commute become a power; their order stays."""
  joined: list[tuple[Node, list[Node]]] = []
  for factor in factors:
    base, exponent = factor.args if factor.head == 'pow' else (factor, ONE)
    if joined and joined[-1][0] == base:
      joined[-1][1].append(exponent)
    else:
      joined.append((base, [exponent]))
  result = [_pow(b, _add(tuple(e), context), context) for b, e in joined]
  return [r for r in result if r != ONE]


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
    return (ONE, I, MINUS_ONE, Node('mul', (MINUS_ONE, I)))[int(n) % 4]
  if base.head == 'pow' and (n.denominator == 1 or _positive(base)):
    return _pow(base.args[0], _mul((base.args[1], exponent), context), context)
  if base.head == 'mul' and commutes(base, context):
    return _product_power(base, exponent, context)
  if base.head == 'infinity' and n < 0:
    return ZERO
  return Node('pow', (base, exponent))


def _product_power(base: Node, exponent: Node, context: Context) -> Node:
  """(ab)^n factor by factor: all for a whole n, else those known to be positive."""
  whole = exponent.value.denominator == 1
  out = [f for f in base.args if whole or _positive(f)]
  rest = [f for f in base.args if not (whole or _positive(f))]
  if not out:
    return Node('pow', (base, exponent))
  powers = tuple(_pow(f, exponent, context) for f in out)
  kept = _mul(tuple(rest), context) if rest else ONE
  return _mul((*powers, _pow(kept, exponent, context)) if rest else powers, context)


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
  if n.denominator == 1 and bits * abs(n) <= _MAX_BITS:
    return number(base ** int(n))
  if n.denominator == 2 and base > 0 and bits * abs(n) <= _MAX_BITS:
    roots = math.isqrt(base.numerator), math.isqrt(base.denominator)
    if (roots[0] ** 2, roots[1] ** 2) == (base.numerator, base.denominator):
      return number(Fraction(*roots) ** n.numerator)
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
