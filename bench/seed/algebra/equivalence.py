"""Are two canonical trees equal? By structure, then by their values at random positive points.

A disagreement that more digits do not shrink settles "different"; agreement at several points of different
scale
settles "equal". Parts without a value (sums, integrals, derivatives, unknown functions) are compared part by
part
first and count as one symbol where they are equal.
"""

import enum
import math
import random
from fractions import Fraction

import mpmath

from bench.seed.algebra.canonical import Context
from bench.seed.algebra.numeric import Point, Undefined, evaluate, is_matrix, is_scalar, is_vector
from bench.seed.algebra.phases import STAND_IN, complex_names, is_conjugate, unconjugated
from bench.seed.nodes import OPAQUE, Name, Node, heads, walk
from bench.seed.reading.tokens import MAX_DIGITS

# Digits beyond the largest power of ten in the trees; two trees agree when all but the last twelve do.
_DIGITS, _MOST_DIGITS, _SPARE = 32, 900, 12
_ATTEMPTS, _ENOUGH, _ENOUGH_SENSITIVE = 40, 4, 12
# Symbol values, cycled through: small and large ones, since cos kx and 1 look alike where kx is small.
_RANGES = ((0.4, 2.5), (0.1, 1.2), (1.0, 7.0), (3.0, 25.0), (0.02, 9.0))
_PARTS = frozenset(('abs', 're', 'im', 'arg', 'conjugate'))


class Verdict(enum.Enum):
  """Outcome of comparing two expressions."""

  EQUAL = 'equal'
  DIFFERENT = 'different'
  UNDECIDED = 'undecided'


def compare(a: Node, b: Node, context: Context) -> Verdict:
  """The verdict on two canonical trees of one pair."""
  if a == b:
    return Verdict.EQUAL
  if a.head == b.head == 'matrix':
    if a.value != b.value:
      return Verdict.DIFFERENT
    return _all(compare(x, y, context) for x, y in zip(a.args, b.args))
  if 'list' in (a.head, b.head):
    if a.head != b.head or len(a.args) != len(b.args) or a.value != b.value:
      return Verdict.DIFFERENT
    return _all(compare(x, y, context) for x, y in zip(a.args, b.args))
  a, b = abstract((a, b), context)
  return Verdict.EQUAL if a == b else _sample(a, b, context)


def _all(verdicts) -> Verdict:
  worst = Verdict.EQUAL
  for verdict in verdicts:
    if verdict is Verdict.DIFFERENT:
      return verdict
    worst = verdict if verdict is Verdict.UNDECIDED else worst
  return worst


def abstract(trees: tuple[Node, Node], context: Context) -> list[Node]:
  """Both trees with every part that has no value replaced by a symbol, the same one for equal parts."""
  known: dict[tuple, list[tuple[Node, Node]]] = {}
  vectors = any(n.head in ('dot', 'cross') for t in trees for n in walk(t))

  def replace(node: Node) -> Node:
    if not node.args and node.head not in OPAQUE:
      return node
    if node.head == 'call' and is_conjugate(node.args[0].value):
      plain = node.args[0]._replace(value=unconjugated(node.args[0].value))
      return Node('conjugate', (replace(node._replace(args=(plain, *node.args[1:]))),))
    node = node._replace(args=tuple(map(replace, node.args)))
    if node.head not in OPAQUE:
      return node
    if node.head == 'mean' and len(node.args) == 2 and node.args[0].value > node.args[1].value:
      # ⟨b|a⟩ is the conjugate of ⟨a|b⟩.
      return Node('conjugate', (replace(node._replace(args=node.args[::-1])),))
    alike = known.setdefault((node.head, node.value, len(node.args)), [])
    for seen, stand_in in alike:
      if all(x == y or _sample(x, y, context) is Verdict.EQUAL for x, y in zip(seen.args, node.args)):
        return stand_in
    count = sum(map(len, known.values()))
    marks = ('vec',) if vectors and node.head in ('curl', 'nabla') else ()
    stand_in = Node('symbol', (), Name(STAND_IN, (str(count),), marks))
    alike.append((node, stand_in))
    return stand_in

  return [replace(t) for t in trees]


def _sample(a: Node, b: Node, context: Context) -> Verdict:
  nodes = [n for t in (a, b) for n in walk(t)]
  context.budget.spend(200 + 50 * len(nodes))
  if a.head == b.head == 'number' and not _rounded(nodes):
    return Verdict.EQUAL if a == b else Verdict.DIFFERENT
  names = sorted(
    {n.value for n in nodes if n.head == 'symbol'}, key=lambda name: (context.rank.get(name, math.inf), name)
  )
  met = {n.head for n in nodes}
  phased = complex_names((a, b), context.ordered) if met & _PARTS else frozenset()
  digits = min(_DIGITS + 2 * _span(nodes), _MOST_DIGITS)
  tolerance = 1e-9 if _rounded(nodes) else mpmath.mpf(10) ** (_SPARE - digits)
  enough = _ENOUGH_SENSITIVE if _sensitive(a) or _sensitive(b) else _ENOUGH
  agreed = crossed = lone = failed = 0
  for attempt in range(_ATTEMPTS):
    outcome = _at_point(a, b, lambda more, k=attempt: _point(names, k, more * digits, met, phased, context), tolerance)
    if outcome == 'differ':
      return Verdict.DIFFERENT
    agreed += outcome == 'agree'
    crossed += outcome == 'crossed'
    lone += outcome == 'lone'
    failed += outcome == 'undefined'
    if agreed >= enough or (not names and agreed):
      return Verdict.EQUAL
    if not agreed and (lone >= 4 or failed >= 8):
      break
  # Branches alone never prove a difference where the answers agree inside their real domain.
  if agreed >= 3 and not lone:
    return Verdict.EQUAL
  return Verdict.DIFFERENT if crossed or lone else Verdict.UNDECIDED


def _at_point(a: Node, b: Node, point_of, tolerance: float) -> str:
  point = point_of(1)
  left, left_crossed = _value(a, point)
  right, right_crossed = _value(b, point)
  if left is None or right is None:
    return 'undefined' if left is right else 'lone'
  if type_of(left) != type_of(right):
    return 'differ'
  gap, scale = distance(left, right)
  if math.isinf(gap):
    return 'differ'
  if gap <= tolerance * scale:
    return 'agree'
  finer = point_of(2)
  fine_gap, fine_scale = distance(_value(a, finer)[0], _value(b, finer)[0])
  # A gap that shrinks with the digits is rounding.
  if fine_gap <= tolerance * fine_scale or fine_gap <= 1e-12 * gap:
    return 'agree'
  if (left_crossed and right_crossed) or ((left_crossed or right_crossed) and not _PARTS & (heads(a) | heads(b))):
    return 'crossed'
  return 'differ'


def _value(node: Node, point: Point):
  """The value, None where it is not finite: infinity agrees with nothing and differs from nothing."""
  point.crossed = False
  try:
    value = evaluate(node, point)
  except Undefined:
    return None, point.crossed
  parts = value if is_vector(value) else list(value) if is_matrix(value) else (value,)
  finite = all(point.mp.isfinite(p) for p in parts)
  return (value if finite else None), point.crossed


def type_of(value) -> str:
  """Name of the kind of value an expression evaluated to."""
  return 'vector' if is_vector(value) else 'matrix' if is_matrix(value) else 'number'


def distance(a, b):
  """The largest difference between two values of one type, and the largest size among them."""
  if a is None or b is None:
    return math.inf, 1
  if is_scalar(a):
    a, b = (a,), (b,)
  pairs = list(zip(a, b))
  gap = max(abs(x - y) for x, y in pairs)
  return gap, max(max(abs(x), abs(y)) for x, y in pairs)


def _point(
  names: list[Name], attempt: int, digits: int, met: set[str], phased: frozenset[Name], context: Context
) -> Point:
  """The attempt's values for the names: by their order, never by their spelling."""
  context.budget.spend(100 * len(names) + 100)
  point = Point({}, digits, context.budget)
  low, high = _RANGES[attempt % len(_RANGES)]
  order: dict[Name, int] = {}
  for k, name in enumerate(names):
    plain = unconjugated(name)
    is_phased = plain in phased
    rng = random.Random(attempt * 4096 + (order.setdefault(plain, k) if is_phased else k))
    draw = lambda rng=rng: point.mp.mpf(low * (high / low) ** rng.random())
    if is_phased:
      point.values[name] = _complex(draw(), rng, point, conjugate=is_conjugate(name))
    elif name in context.ordered:
      point.values[name] = point.mp.matrix([[rng.choice((-1, 1)) * draw() for _ in range(3)] for _ in range(3)])
    elif 'vec' in name.marks and met & {'dot', 'cross'}:
      point.values[name] = tuple(rng.choice((-1, 1)) * draw() for _ in range(3))
    else:
      point.values[name] = draw()
  return point


def _complex(size, rng: random.Random, point: Point, *, conjugate: bool):
  """A value off the real axis, in the right half plane: roots and logarithms of products stay on one branch."""
  angle = rng.uniform(0.2, 1.0) * (-1 if conjugate else 1)
  return size * point.mp.expj(angle)


def _sensitive(tree: Node) -> bool:
  """Whether signs may matter only at some points: an absolute value or an even root of something periodic."""
  met = heads(tree)
  rooted = 'abs' in met or any(
    n.head == 'pow' and n.args[1].head == 'number' and n.args[1].value.denominator % 2 == 0 for n in walk(tree)
  )
  return rooted and bool(met & {'sin', 'cos', 'tan', 'cot', 'sec', 'csc', 'abs', 'add'})


def _span(nodes: list[Node]) -> int:
  """The largest power of ten among the numbers: 1 + 10^{-34} x needs that many digits more."""
  values = [n.value for n in nodes if n.head == 'number']
  sizes = [abs(v.numerator.bit_length() - v.denominator.bit_length()) for v in values]
  largest = max(sizes, default=0)
  return int(largest * math.log10(2)) if largest > 24 else 0


def _rounded(nodes: list[Node]) -> bool:
  """Whether a decimal of 9 to 40 digits occurs, which may be a rounded value; 2^{-100} has more and is exact."""
  return any(9 <= _significant(n.value) <= 40 for n in nodes if n.head == 'number' and n.value.denominator > 1)


def _significant(value: Fraction) -> int:
  """Significant digits of a decimal fraction; 0 for a fraction that is no short decimal."""
  rest, twos, fives = value.denominator, 0, 0
  while rest % 2 == 0:
    rest, twos = rest // 2, twos + 1
  while rest % 5 == 0:
    rest, fives = rest // 5, fives + 1
  places = max(twos, fives)
  return len(str(abs(value) * 10**places).strip('0')) if rest == 1 and places <= MAX_DIGITS else 0
