"""Equations and inequalities: equal up to a constant factor, or solved for one of their symbols."""

from collections.abc import Callable

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
  walk,
)

_MAX_SOLVED = 8


def gap(relation: Node) -> Node:
  """Left minus right of a relation of two members."""
  left, right = relation.args
  return subtract(left, right)


def relation_verdict(a: Node, b: Node, context: Context) -> Verdict:
  """Two relation nodes: the same sign, and differences of the sides that agree up to a factor.

  The factor is any number but zero for equalities, positive for inequalities. Chains agree member by member.
  """
  if a.value != b.value:
    return Verdict.DIFFERENT
  if len(a.value) > 1 or a.value[0] in ('\\in', '\\to'):
    verdicts = [compare(canonical(x, context), canonical(y, context), context) for x, y in zip(a.args, b.args)]
    return next((v for v in (Verdict.DIFFERENT, Verdict.UNDECIDED) if v in verdicts), Verdict.EQUAL)
  f, g = canonical(gap(a), context), canonical(gap(b), context)
  verdict = proportional(f, g, context)
  if verdict is Verdict.EQUAL and a.value[0] not in ('=', '\\neq'):
    ratio = factor(f, g, context)
    return Verdict.EQUAL if ratio is not None and ratio.imag == 0 and ratio.real > 0 else Verdict.DIFFERENT
  if verdict is Verdict.DIFFERENT and a.value == ('=',) and _solved_alike(*abstract((f, g), context), context):
    return Verdict.EQUAL
  return verdict


def proportional(f: Node, g: Node, context: Context) -> Verdict:
  """Whether g is a constant times f, neither being zero: f(x) g(y) = f(y) g(x) at all x, y."""
  if f == g or f == canonical(negative(g), context):
    return Verdict.EQUAL
  zeros = [compare(t, ZERO, context) is Verdict.EQUAL for t in (f, g)]
  if any(zeros):
    return Verdict.EQUAL if all(zeros) else Verdict.DIFFERENT
  for name in list(context.rank):
    if isinstance(name, Name):
      context.rank.setdefault(_twin(name), float(len(context.rank)))
  far_f, far_g = (rewrite(t, _to_twin) for t in (f, g))
  left, right = (canonical(mul(*pair), context) for pair in ((f, far_g), (far_f, g)))
  return compare(left, right, context)


def _twin(name: Name) -> Name:
  return name.marked('twin')


def _to_twin(node: Node) -> Node:
  return node._replace(value=_twin(node.value)) if node.head == 'symbol' else node


def factor(f: Node, g: Node, context: Context):
  """g / f at one point, for trees known to be proportional; None where that has no value."""
  if any(n.head in OPAQUE for t in (f, g) for n in walk(t)):
    f, g = (rewrite(t, lambda n: Node('symbol', (), Name(repr(n))) if n.head in OPAQUE else n) for t in (f, g))
  phased = complex_names((f, g), context.ordered)
  order = {name: k for k, name in enumerate(dict.fromkeys(map(unconjugated, (*names(f), *names(g)))))}
  for attempt in range(1, 8):
    point = Point({}, 32, context.budget)
    for name in (*names(f), *names(g)):
      plain = unconjugated(name)
      value = point.mp.mpf(attempt + order[plain] + 1) / (attempt + 7)
      turned = value * point.mp.expj(-value if is_conjugate(name) else value)
      point.values[name] = turned if plain in phased else value
    try:
      return point.mp.mpmathify(evaluate(g, point) / evaluate(f, point))
    except (Undefined, ZeroDivisionError, TypeError):
      continue
  return None


def _solved_alike(f: Node, g: Node, context: Context) -> bool:
  """Whether f = 0 and g = 0, each linear in some symbol, give that symbol the same value.

  A derivative, a sum or an integral counts as one symbol.
  The coefficient of the symbol must be a product that cannot vanish, or dividing by it would lose solutions.
  """
  common = [n for n in names(f) if n in set(names(g))][:_MAX_SOLVED]
  for name in common:
    if name in context.ordered:
      continue
    try:
      (f0, f1), (g0, g1) = (_linear(t, name, context) for t in (f, g))
    except (Unsupported, ValueError):
      continue
    left, right = canonical(mul(f0, g1), context), canonical(mul(g0, f1), context)
    if compare(left, right, context) is Verdict.EQUAL:
      return True
  return False


def _linear(tree: Node, name: Name, context: Context) -> tuple[Node, Node]:
  """The constant and the coefficient of a tree linear in a symbol. ValueError where it is not."""
  at: Callable = lambda value: canonical(
    rewrite(tree, lambda n: value if n.head == 'symbol' and n.value == name else n), context
  )
  constant = at(ZERO)
  slope = canonical(subtract(at(ONE), constant), context)
  line = canonical(add(constant, mul(slope, Node('symbol', (), name))), context)
  if not _never_zero(slope) or compare(line, tree, context) is not Verdict.EQUAL:
    raise ValueError(f'not linear in {name}')
  return constant, slope


def _never_zero(node: Node) -> bool:
  if node.head == 'mul':
    return all(map(_never_zero, node.args))
  if node.head == 'pow':
    return _never_zero(node.args[0])
  return node != ZERO and node.head in ('number', 'symbol', 'pi', 'e', 'i')
