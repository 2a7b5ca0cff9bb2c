"""Equations and inequalities: equal up to a constant factor, or solved for one of their symbols."""

from bench.seed.algebra.canonical import Context, canonical
from bench.seed.algebra.equivalence import Verdict, abstract, compare
from bench.seed.algebra.numeric import Point, Undefined, evaluate
from bench.seed.algebra.phases import complex_names, is_conjugate, unconjugated
from bench.seed.nodes import (
  ONE,
  OPAQUE,
  ZERO,
  Name,
  Node,
  Unsupported,
  add,
  mul,
  names,
  negative,
  rewrite,
  subtract,
)

_MAX_SOLVED = 8


def gap(relation: Node) -> Node:
  """Left minus right of a relation of two members."""
  left, right = relation.args
  return subtract(left, right)


def relation_verdict(a: Node, b: Node, context: Context) -> Verdict:
  """The verdict on two relations: equal if the signs are the same and left - right agrees up to a factor.

  The factor is nonzero for equalities, positive for inequalities. Chains are compared member by member, and so are
  relations without symbols, such as 1 + 1 = 2: up to a factor all of them are alike.
  """
  if a.value != b.value:
    return Verdict.DIFFERENT
  if len(a.value) > 1 or a.value[0] in ('\\in', '\\to'):
    return _chain_verdict(a, b, context)
  f = canonical(gap(a), context)
  g = canonical(gap(b), context)
  if ZERO in (f, g) or not (any(names(f)) or any(names(g))):
    return _members_verdict(a, b, context)
  if _name_a_value(a, b):
    return _chain_verdict(a, b, context)
  verdict = proportional(f, g, context)
  if verdict is Verdict.EQUAL and a.value[0] not in ('=', '\\neq'):
    ratio = factor(f, g, context)
    is_positive = ratio is not None and ratio.imag == 0 and ratio.real > 0
    if is_positive:
      return Verdict.EQUAL
    return Verdict.DIFFERENT
  if verdict is Verdict.DIFFERENT and a.value == ('=',) and _solved_alike(*abstract((f, g), context), context):
    return Verdict.EQUAL
  return verdict


def _name_a_value(a: Node, b: Node) -> bool:
  """Whether both equate the same left side with a value without it: then the values decide, however small they are."""
  left = a.args[0]
  if a.value != ('=',) or left != b.args[0]:
    return False
  named = set(names(left))
  others = {name for relation in (a, b) for name in names(relation.args[1])}
  return bool(named) and not named & others


def _members_verdict(a: Node, b: Node, context: Context) -> Verdict:
  """As `_chain_verdict`; an equality may also be read from its other side."""
  verdict = _chain_verdict(a, b, context)
  if verdict is Verdict.EQUAL or a.value != ('=',):
    return verdict
  return _chain_verdict(a._replace(args=a.args[::-1]), b, context)


def _chain_verdict(a: Node, b: Node, context: Context) -> Verdict:
  """The verdict on the members of two chains with the same signs."""
  pairs = ((canonical(x, context), canonical(y, context)) for x, y in zip(a.args, b.args))
  verdicts = [compare(x, y, context) for x, y in pairs]
  for verdict in (Verdict.DIFFERENT, Verdict.UNDECIDED):
    if verdict in verdicts:
      return verdict
  return Verdict.EQUAL


def proportional(f: Node, g: Node, context: Context) -> Verdict:
  """Whether g is a constant times f, neither being zero: f(x) g(y) = f(y) g(x) at all x, y."""
  if f == g or f == canonical(negative(g), context):
    return Verdict.EQUAL
  zeros = [_vanishes(t, context) for t in (f, g)]
  if any(zeros):
    # Identities: their differences are equal as written, or nothing says that they are.
    if all(zeros):
      return Verdict.UNDECIDED
    return Verdict.DIFFERENT
  for name in list(context.rank):
    if isinstance(name, Name):
      context.rank.setdefault(_twin(name), float(len(context.rank)))
  left = canonical(mul(f, rewrite(g, _to_twin)), context)
  right = canonical(mul(rewrite(f, _to_twin), g), context)
  return compare(left, right, context)


def _vanishes(node: Node, context: Context) -> bool:
  """Whether a tree is 0 everywhere; a matrix of zeros, which no number equals, is twice itself."""
  twice = canonical(add(node, node), context)
  return any(compare(node, other, context) is Verdict.EQUAL for other in (ZERO, twice))


def _twin(name: Name) -> Name:
  return name.marked('twin')


def _to_twin(node: Node) -> Node:
  if node.head == 'symbol':
    return node._replace(value=_twin(node.value))
  return node


def factor(f: Node, g: Node, context: Context):
  """g / f at one point, for trees known to be proportional; None if it has no value."""
  f = rewrite(f, _opaque_to_symbol)
  g = rewrite(g, _opaque_to_symbol)
  complex_ones = complex_names((f, g), context.ordered)
  used = (*names(f), *names(g))
  order: dict[Name, int] = {}
  for name in used:
    order.setdefault(unconjugated(name), len(order))
  for attempt in range(1, 8):
    point = Point({}, 32, context.budget)
    for name in used:
      plain = unconjugated(name)
      value = point.mp.mpf(attempt + order[plain] + 1) / (attempt + 7)
      if plain in complex_ones:
        value = value * point.mp.expj(-value if is_conjugate(name) else value)
      point.values[name] = value
    try:
      return point.mp.mpmathify(evaluate(g, point) / evaluate(f, point))
    except (Undefined, ZeroDivisionError, TypeError):
      continue
  return None


def _opaque_to_symbol(node: Node) -> Node:
  """A part without a value as a symbol."""
  if node.head in OPAQUE:
    return Node('symbol', (), Name(repr(node)))
  return node


def _solved_alike(f: Node, g: Node, context: Context) -> bool:
  """Whether f = 0 and g = 0, each linear in some symbol, give that symbol the same value.

  A derivative, a sum or an integral counts as one symbol. The coefficient of the symbol must be a product that cannot
  vanish, because a division by zero would lose solutions.
  """
  others = set(names(g))
  common = [name for name in names(f) if name in others]
  for name in common[:_MAX_SOLVED]:
    if name in context.ordered:
      continue
    try:
      f0, f1 = _linear(f, name, context)
      g0, g1 = _linear(g, name, context)
    except (Unsupported, ValueError):
      continue
    left = canonical(mul(f0, g1), context)
    right = canonical(mul(g0, f1), context)
    if compare(left, right, context) is Verdict.EQUAL:
      return True
  return False


def _linear(tree: Node, name: Name, context: Context) -> tuple[Node, Node]:
  """(constant, coefficient) of a tree that is linear in a symbol. Raises ValueError if it is not."""
  variable = Node('symbol', (), name)

  def at(value: Node) -> Node:
    return canonical(rewrite(tree, lambda n: value if n == variable else n), context)

  constant = at(ZERO)
  slope = canonical(subtract(at(ONE), constant), context)
  line = canonical(add(constant, mul(slope, variable)), context)
  if not _never_zero(slope) or compare(line, tree, context) is not Verdict.EQUAL:
    raise ValueError(f'not linear in {name}')
  return constant, slope


def _never_zero(node: Node) -> bool:
  if node.head == 'mul':
    return all(map(_never_zero, node.args))
  if node.head == 'pow':
    return _never_zero(node.args[0])
  return node != ZERO and node.head in ('number', 'symbol', 'pi', 'e', 'i')
