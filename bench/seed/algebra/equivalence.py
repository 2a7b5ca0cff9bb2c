"""Equality of two canonical trees: by structure, then by their values at random positive points.

A gap that does not shrink with more digits means "different"; agreement at several points of different scale means
"equal". Parts without a value (sums, integrals, derivatives, unknown functions) are first compared part by part, and
equal ones are replaced by the same symbol.
"""

import enum
import functools
import math
import random
from fractions import Fraction

import mpmath

from bench.seed.algebra.canonical import Context
from bench.seed.algebra.numeric import Point, Undefined, evaluate, is_matrix, is_scalar, is_vector
from bench.seed.algebra.phases import STAND_IN, complex_names, is_conjugate, unconjugated
from bench.seed.nodes import OPAQUE, Name, Node, heads, walk
from bench.seed.reading.tokens import MAX_DIGITS

_DIGITS = 32  # beyond the largest power of ten in the trees
_MOST_DIGITS = 900
_SPARE = 12  # last digits in which equal trees may differ
_ATTEMPTS = 40  # points
_ENOUGH = 4  # points that must agree
_ENOUGH_SENSITIVE = 12  # the same for trees in which a sign may matter at few points
# Ranges of symbol values, used in turn: small and large, because cos kx is close to 1 for small kx.
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
  if a.head == b.head == 'matrix' or 'list' in (a.head, b.head):
    return _compare_entries(a, b, context)
  a, b = abstract((a, b), context)
  if a == b:
    return Verdict.EQUAL
  return _sample(a, b, context)


def _compare_entries(a: Node, b: Node, context: Context) -> Verdict:
  """The verdict on two matrices or lists, entry by entry."""
  if a.head != b.head or a.value != b.value or len(a.args) != len(b.args):
    return Verdict.DIFFERENT
  worst = Verdict.EQUAL
  for x, y in zip(a.args, b.args):
    verdict = compare(x, y, context)
    if verdict is Verdict.DIFFERENT:
      return verdict
    if verdict is Verdict.UNDECIDED:
      worst = verdict
  return worst


class _Abstraction:
  """Replaces every part without a value by a symbol, the same one for equal parts of all trees."""

  def __init__(self, context: Context, *, has_vectors: bool):
    self._context = context
    self._has_vectors = has_vectors
    self._known: dict[tuple, list[tuple[Node, Node]]] = {}
    self._count = 0

  def replace(self, node: Node) -> Node:
    """The tree with its valueless parts replaced."""
    if not node.args and node.head not in OPAQUE:
      return node
    if node.head == 'call' and is_conjugate(node.args[0].value):
      function, *rest = node.args
      plain = function._replace(value=unconjugated(function.value))
      return Node('conjugate', (self.replace(node._replace(args=(plain, *rest))),))
    node = node._replace(args=tuple(map(self.replace, node.args)))
    if node.head not in OPAQUE:
      return node
    if node.head == 'mean' and len(node.args) == 2 and node.args[0].value > node.args[1].value:
      # ⟨b|a⟩ is the conjugate of ⟨a|b⟩.
      return Node('conjugate', (self.replace(node._replace(args=node.args[::-1])),))
    return self._stand_in(node)

  def _stand_in(self, node: Node) -> Node:
    """The symbol of an equal part if there is one, else a new symbol."""
    alike = self._known.setdefault((node.head, node.value, len(node.args)), [])
    for other, stand_in in alike:
      if all(self._equal(x, y) for x, y in zip(other.args, node.args)):
        return stand_in
    marks = ()
    if self._has_vectors and node.head in ('curl', 'nabla'):
      marks = ('vec',)
    stand_in = Node('symbol', (), Name(STAND_IN, (str(self._count),), marks))
    self._count += 1
    alike.append((node, stand_in))
    return stand_in

  def _equal(self, a: Node, b: Node) -> bool:
    return a == b or _sample(a, b, self._context) is Verdict.EQUAL


def abstract(trees: tuple[Node, Node], context: Context) -> list[Node]:
  """Both trees with every part that has no value replaced by a symbol, the same one for equal parts."""
  has_vectors = any(node.head in ('dot', 'cross') for tree in trees for node in walk(tree))
  abstraction = _Abstraction(context, has_vectors=has_vectors)
  return [abstraction.replace(tree) for tree in trees]


def _sample(a: Node, b: Node, context: Context) -> Verdict:
  """The verdict from values at up to `_ATTEMPTS` points."""
  nodes = [*walk(a), *walk(b)]
  context.budget.spend(200 + 50 * len(nodes))
  is_rounded = _rounded(nodes)
  if a.head == b.head == 'number' and not is_rounded:
    if a == b:
      return Verdict.EQUAL
    return Verdict.DIFFERENT
  points = _Points(a, b, nodes, context)
  tolerance = 1e-9
  if not is_rounded:
    tolerance = mpmath.mpf(10) ** (_SPARE - points.digits)
  enough = _ENOUGH_SENSITIVE if _sensitive(a) or _sensitive(b) else _ENOUGH
  counts = dict.fromkeys(('agree', 'crossed', 'lone', 'undefined'), 0)
  for attempt in range(_ATTEMPTS):
    outcome = _at_point(a, b, functools.partial(points.at, attempt), tolerance)
    if outcome == 'differ':
      return Verdict.DIFFERENT
    counts[outcome] += 1
    if counts['agree'] >= enough or (counts['agree'] and not points.names):
      return Verdict.EQUAL
    if not counts['agree'] and (counts['lone'] >= 4 or counts['undefined'] >= 8):
      break
  # Branch cuts alone do not prove a difference if the answers agree inside their real domain.
  if counts['agree'] >= 3 and not counts['lone']:
    return Verdict.EQUAL
  if counts['crossed'] or counts['lone']:
    return Verdict.DIFFERENT
  return Verdict.UNDECIDED


def _at_point(a: Node, b: Node, point_of, tolerance: float) -> str:
  """The outcome at one point; point_of(more): the point with `more` times the digits.

  'agree', 'differ', 'crossed' (different on branches of roots or logarithms), 'lone' (only one has a value) or
  'undefined' (neither has).
  """
  point = point_of(1)
  left, left_crossed = _value(a, point)
  right, right_crossed = _value(b, point)
  if left is None or right is None:
    if left is right:
      return 'undefined'
    return 'lone'
  if type_of(left) != type_of(right):
    return 'differ'
  gap, scale = distance(left, right)
  if math.isinf(gap):
    return 'differ'
  if gap <= tolerance * scale:
    return 'agree'
  finer = point_of(2)
  fine_left, _ = _value(a, finer)
  fine_right, _ = _value(b, finer)
  fine_gap, fine_scale = distance(fine_left, fine_right)
  # A gap that shrinks with the digits is rounding.
  if fine_gap <= tolerance * fine_scale or fine_gap <= 1e-12 * gap:
    return 'agree'
  has_parts = bool(_PARTS & (heads(a) | heads(b)))
  if left_crossed and right_crossed:
    return 'crossed'
  if (left_crossed or right_crossed) and not has_parts:
    return 'crossed'
  return 'differ'


def _value(node: Node, point: Point):
  """(value, whether it crossed a branch cut); the value is None if not finite: infinity decides nothing."""
  point.crossed = False
  try:
    value = evaluate(node, point)
  except Undefined:
    return None, point.crossed
  parts = (value,) if is_scalar(value) else list(value)
  is_finite = all(map(point.mp.isfinite, parts))
  return (value if is_finite else None), point.crossed


def type_of(value) -> str:
  """The type of an expression's value."""
  if is_vector(value):
    return 'vector'
  if is_matrix(value):
    return 'matrix'
  return 'number'


def distance(a, b):
  """The largest difference between two values of one type, and the largest size among them."""
  if a is None or b is None:
    return math.inf, 1
  if is_scalar(a):
    a = (a,)
    b = (b,)
  pairs = list(zip(a, b))
  gap = max(abs(x - y) for x, y in pairs)
  scale = max(max(abs(x), abs(y)) for x, y in pairs)
  return gap, scale


class _Points:
  """The points at which two trees are compared. Values depend on the order of names, never on their spelling."""

  def __init__(self, a: Node, b: Node, nodes: list[Node], context: Context):
    self._context = context
    self._heads = {node.head for node in nodes}
    self._complex = complex_names((a, b), context.ordered) if self._heads & _PARTS else frozenset()
    self.digits = min(_DIGITS + 2 * _span(nodes), _MOST_DIGITS)
    names = {node.value for node in nodes if node.head == 'symbol'}
    self.names = sorted(names, key=lambda name: (context.rank.get(name, math.inf), name))

  def at(self, attempt: int, more: int) -> Point:
    """The point of an attempt, with `more` times the digits."""
    self._context.budget.spend(100 * len(self.names) + 100)
    point = Point({}, more * self.digits, self._context.budget)
    first: dict[Name, int] = {}  # a complex name and its conjugate share the number of the first of them
    for k, name in enumerate(self.names):
      plain = unconjugated(name)
      number = k
      if plain in self._complex:
        number = first.setdefault(plain, k)
      rng = random.Random(attempt * 4096 + number)
      point.values[name] = self._draw(name, point, rng, _RANGES[attempt % len(_RANGES)])
    return point

  def _draw(self, name: Name, point: Point, rng: random.Random, limits: tuple[float, float]):
    """A random value of the type that the name needs."""
    low, high = limits

    def positive():
      return point.mp.mpf(low * (high / low) ** rng.random())

    def signed():
      return rng.choice((-1, 1)) * positive()

    if unconjugated(name) in self._complex:
      return _complex(positive(), rng, point, conjugate=is_conjugate(name))
    if name in self._context.ordered:
      return point.mp.matrix([[signed() for _ in range(3)] for _ in range(3)])
    if 'vec' in name.marks and self._heads & {'dot', 'cross'}:
      return tuple(signed() for _ in range(3))
    return positive()


def _complex(size, rng: random.Random, point: Point, *, conjugate: bool):
  """A value off the real axis, in the right half plane, so that roots and logarithms of products stay on one branch."""
  angle = rng.uniform(0.2, 1.0)
  return size * point.mp.expj(-angle if conjugate else angle)


def _sensitive(tree: Node) -> bool:
  """Whether signs may matter only at some points: an absolute value or an even root of something periodic."""
  used = heads(tree)
  has_root = 'abs' in used or any(map(_is_even_root, walk(tree)))
  return has_root and bool(used & {'sin', 'cos', 'tan', 'cot', 'sec', 'csc', 'abs', 'add'})


def _is_even_root(node: Node) -> bool:
  if node.head != 'pow' or node.args[1].head != 'number':
    return False
  return node.args[1].value.denominator % 2 == 0


def _span(nodes: list[Node]) -> int:
  """The largest power of ten among the numbers, which is how many more digits 1 + 10^{-34} x needs."""
  values = [node.value for node in nodes if node.head == 'number']
  sizes = [abs(value.numerator.bit_length() - value.denominator.bit_length()) for value in values]
  largest = max(sizes, default=0)
  if largest > 24:
    return int(largest * math.log10(2))
  return 0


def _rounded(nodes: list[Node]) -> bool:
  """Whether a decimal of 9 to 40 digits occurs, which may be a rounded value; 2^{-100} has more and is exact."""
  fractions = [node.value for node in nodes if node.head == 'number' and node.value.denominator > 1]
  return any(9 <= _significant(value) <= 40 for value in fractions)


def _significant(value: Fraction) -> int:
  """Significant digits of a decimal fraction; 0 for a fraction that is no short decimal."""
  rest, twos = _divide_out(value.denominator, 2)
  rest, fives = _divide_out(rest, 5)
  places = max(twos, fives)
  if rest != 1 or places > MAX_DIGITS:
    return 0
  digits = str(abs(value) * 10**places)
  return len(digits.strip('0'))


def _divide_out(n: int, factor: int) -> tuple[int, int]:
  """(n without its powers of `factor`, how many there were)."""
  power = 0
  while n % factor == 0:
    n //= factor
    power += 1
  return n, power
