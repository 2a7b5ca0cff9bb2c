"""The scorer of Equation: relations, and lists of them."""

import functools
import itertools

from bench.seed.algebra.canonical import canonical
from bench.seed.algebra.equivalence import Verdict
from bench.seed.algebra.relations import relation_verdict
from bench.seed.comparison import Job, edit_points, flags_of, read_reference, trees
from bench.seed.nodes import Name, Node, SeedError, TooLarge, subtract
from bench.seed.pairs import pair, settle
from bench.seed.reading.answer import statements
from bench.seed.reading.parser import Reading
from bench.seed.reading.splitting import is_name, relation
from bench.seed.reading.statement import Statement, member, tokens_of
from bench.seed.reading.tokens import Token, label, sign
from bench.seed.result import Mark

MOST_EQUATIONS = 24  # of one answer; more would take work that grows with the square
_AMOUNTS = frozenset(('number', '+', '-', '^', '{', '}', '*', '/'))
_CALCULATIONS = frozenset(('\\sqrt', '\\frac'))
_OPERATIONS = frozenset(('\\frac', '\\cdot', '\\times'))


def equation(reference: str, prediction: str, job: Job) -> Mark:
  """Left minus right, up to a factor; an equation never equals an inequality or an expression.

  Of several equations, in any order, each must be equal to one; a value without a left side has that of the equation
  before it, as in x = 1, 2.
  """
  place = renamed(statements_of(reference, job.reading), statements_of(prediction, job.reading))
  read = functools.partial(_read_equations, place=place or 0)
  wanted = read_reference(read, reference, job)
  given = read(prediction, job)
  if len(wanted) == len(given) == 1:
    return _one_equation(wanted[0], given[0], job)
  return _listed_mark(wanted, given, job)


def _listed_mark(wanted: list[Node], given: list[Node], job: Job) -> Mark:
  """The mark of two lists of equations, matched one to one in any order."""
  rows = []
  flags = set()
  for one in wanted:
    row = []
    for other in given:
      mark = _one_equation(one, other, job)
      row.append(mark.points)
      flags.update(mark.flags)
    rows.append(row)
  points = _matched(rows)
  test = 'numeric' if points == 100 else 'distance'
  return Mark(points, test, flags=tuple(sorted(flags)))


def statements_of(text: str, reading: Reading) -> list[Statement]:
  """The statements of an answer; none of one that cannot be read."""
  try:
    return statements(tokens_of(text, reading))
  except SeedError:
    return []


def renamed(a: list[Statement], b: list[Statement]) -> int | None:
  """The first place before a sign, as of -B in A = -B = 1, where two answers give a value to different quantities.

  None if there is none, or if the names are unlike, since a name may be chosen.
  """
  if len(a) != len(b):
    return None
  places = []
  for one, other in zip(a, b):
    if len(one.members) == len(other.members):
      places += _different_places(one.members[:-1], other.members[:-1])
  return min(places, default=None)


def _different_places(one: list[list[Token]], other: list[list[Token]]) -> list[int]:
  """Where two chains differ; after their first members only names count, since others are steps of a calculation."""
  found = []
  for place, (x, y) in enumerate(zip(one, other)):
    is_step = place and not (_is_signed_name(x) and _is_signed_name(y))
    if not is_step and _are_different(x, y):
      found.append(place)
  return found


def _is_signed_name(tokens: list[Token]) -> bool:
  signs = {sign(token) for token in tokens}
  if signs & _CALCULATIONS:
    return False
  has_sign = bool(tokens) and tokens[0].kind in ('+', '-')
  return is_name(tokens[has_sign:])


def _are_different(x: list[Token], y: list[Token]) -> bool:
  """Whether the tokens differ in numbers and signs alone: P(1) and P(-1), E_1 and E_2, x and x^2."""
  outside_x, inside_x = _parted(x)
  outside_y, inside_y = _parted(y)
  letters = _letters(outside_x)
  if not letters or letters != _letters(outside_y):
    return False
  if label(outside_x) != label(outside_y):
    return True
  have_amounts = _has_amount(inside_x) and _has_amount(inside_y)
  return have_amounts and label(inside_x) != label(inside_y)


def _parted(tokens: list[Token]) -> tuple[list[Token], list[Token]]:
  """(the tokens outside parentheses and square brackets, those inside)."""
  outside = []
  inside = []
  level = 0
  for token in tokens:
    if token.kind in ')]':
      level -= 1
    part = outside if level <= 0 else inside
    part.append(token)
    if token.kind in '([':
      level += 1
  return outside, inside


def _letters(tokens: list[Token]) -> list[Token]:
  return [token for token in tokens if token.kind not in _AMOUNTS and sign(token) not in _OPERATIONS]


def _has_amount(tokens: list[Token]) -> bool:
  return any(token.kind in ('number', '+', '-') for token in tokens)


def _matched(points: list[list[float]]) -> float:
  """The mean points of the best partners, each taken once; what has no partner earns nothing."""
  places = []
  for i, row in enumerate(points):
    for j, value in enumerate(row):
      places.append((-value, i, j))
  places.sort()  # the best first, then in the order of the answers
  rows = set()
  columns = set()
  total = 0.0
  for value, i, j in places:
    if i in rows or j in columns:
      continue
    total -= value
    rows.add(i)
    columns.add(j)
  return total / max(len(points), len(points[0]))


def _one_equation(a: Node, b: Node, job: Job) -> Mark:
  """The mark of a relation, or of an expression where neither is a relation."""
  if a.head != 'relation' and b.head != 'relation':
    return trees(a, b, job)
  a, b, ordered = settle(a, b, hats=job.hats)
  context = pair(a, b, ordered, job.budget).context
  verdict = relation_verdict(a, b, context) if a.head == b.head else Verdict.DIFFERENT
  if verdict is Verdict.EQUAL:
    is_same = canonical(a, context) == canonical(b, context)
    return Mark(100.0, 'structure' if is_same else 'numeric')
  points = _best_distance(a, b, ordered, job)
  return Mark(points, 'distance', flags=flags_of(verdict))


def _best_distance(a: Node, b: Node, ordered: frozenset[Name], job: Job) -> float:
  """The most points that two relations earn by their distance, in any orientation."""
  points = 0.0
  for x, y in itertools.product(_orientations(a), _orientations(b)):
    both = pair(x, y, ordered, job.budget)
    earned = edit_points(both.reference, both.prediction, job.budget)
    points = max(points, earned)
  return points


def _orientations(node: Node) -> list[Node]:
  """The differences whose edit distance counts: of an equality both left - right and right - left."""
  if node.head != 'relation':
    return [node]
  first = node.args[0]
  last = node.args[-1]
  differences = [subtract(first, last)]
  if node.value == ('=',):
    differences.append(subtract(last, first))
  return differences


def _read_equations(text: str, job: Job, place: int) -> list[Node]:
  """Relations of two members (of a chain the one at `place` and the last), and expressions where there is no sign."""
  parts = statements(tokens_of(text, job.reading))
  if len(parts) > MOST_EQUATIONS:
    raise TooLarge(f'{len(parts)} equations, at most {MOST_EQUATIONS} are read')
  found = []
  left = None
  for part in parts:
    if part.signs:
      found.append(_read_relation(part, job, place))
      left = None
      if found[-1].value == ('=',):
        left = found[-1].args[0]
    else:
      value = member(part.members[0], job.reading)
      found.append(value if left is None else relation([left, value], ['=']))
  return found


def _read_relation(part: Statement, job: Job, place: int) -> Node:
  if part.inequality:
    members = [member(tokens, job.reading) for tokens in part.members]
    return relation(members, part.signs)
  place = min(place, len(part.members) - 2)
  first = member(part.members[place], job.reading)
  last = member(part.members[-1], job.reading)
  return relation([first, last], ['='])
