"""The scorer of Equation: relations, and lists of them."""

import itertools

from bench.seed.algebra.canonical import canonical
from bench.seed.algebra.equivalence import Verdict
from bench.seed.algebra.relations import relation_verdict
from bench.seed.comparison import Job, edit_points, flags_of, read_reference, trees
from bench.seed.nodes import Node, TooLarge, subtract
from bench.seed.pairs import pair, settle
from bench.seed.reading.splitting import relation
from bench.seed.reading.statement import Statement, member, statements, tokens_of
from bench.seed.result import Mark

MOST_EQUATIONS = 24  # of one answer; more would take work that grows with the square


def equation(reference: str, prediction: str, job: Job) -> Mark:
  """Left minus right, up to a factor; an equation never equals an inequality or an expression.

  Of several equations, in any order, each must be equal to one; a value without a left side has that of the equation
  before it, as in x = 1, 2.
  """
  wanted = read_reference(_read_equations, reference, job)
  given = _read_equations(prediction, job)
  if len(wanted) == len(given) == 1:
    return _one_equation(wanted[0], given[0], job)
  marks = [[_one_equation(a, b, job) for b in given] for a in wanted]
  points = _matched([[mark.points for mark in row] for row in marks])
  flags = {flag for row in marks for mark in row for flag in mark.flags}
  return Mark(points, 'numeric' if points == 100 else 'distance', flags=tuple(sorted(flags)))


def _matched(points: list[list[float]]) -> float:
  """The mean points of the best partners, each taken once; what has no partner earns nothing."""
  rows = len(points)
  columns = len(points[0])
  places = [(points[i][j], -i, -j) for i in range(rows) for j in range(columns)]
  total = 0.0
  left = set(range(rows))
  free = set(range(columns))
  for value, i, j in sorted(places, reverse=True):
    if -i in left and -j in free:
      total += value
      left.remove(-i)
      free.remove(-j)
  return total / max(rows, columns)


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
  points = 0.0
  for x, y in itertools.product(_orientations(a), _orientations(b)):
    both = pair(x, y, ordered, job.budget)
    points = max(points, edit_points(both.reference, both.prediction, job.budget))
  return Mark(points, 'distance', flags=flags_of(verdict))


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


def _read_equations(text: str, job: Job) -> list[Node]:
  """Relations of two members (first and last of a chain of equalities), and expressions where there is no sign."""
  parts = statements(tokens_of(text, job.reading))
  if len(parts) > MOST_EQUATIONS:
    raise TooLarge(f'{len(parts)} equations, at most {MOST_EQUATIONS} are read')
  found = []
  left = None
  for part in parts:
    if part.signs:
      found.append(_read_relation(part, job))
      left = None
      if found[-1].value == ('=',):
        left = found[-1].args[0]
    else:
      value = member(part.members[0], job.reading)
      found.append(value if left is None else relation([left, value], ['=']))
  return found


def _read_relation(part: Statement, job: Job) -> Node:
  if part.inequality:
    members = [member(tokens, job.reading) for tokens in part.members]
    return relation(members, part.signs)
  first = member(part.members[0], job.reading)
  last = member(part.members[-1], job.reading)
  return relation([first, last], ['='])
