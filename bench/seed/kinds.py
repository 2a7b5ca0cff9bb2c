"""Scorers of Expression, Equation and Tuple (Interval is in intervals.py, Numeric in quantity.py)."""

import dataclasses
import itertools

from bench.seed import tree
from bench.seed.algebra.canonical import canonical
from bench.seed.algebra.equivalence import Verdict, compare
from bench.seed.algebra.relations import relation_verdict
from bench.seed.nodes import Budget, Node, ParseError, SeedError, subtract
from bench.seed.pairs import Pair, branches, pair, settle
from bench.seed.reading.parser import Reading
from bench.seed.reading.splitting import EQUALS, relation, split_at, trim
from bench.seed.reading.statement import member, side, statement, statements, tokens_of, unwrap
from bench.seed.reading.tokens import Token, label, sign
from bench.seed.result import Mark, mean


@dataclasses.dataclass
class Job:
  """One pair's reading rules, hat setting and remaining work; symbolic: whether sympy may be asked."""

  reading: Reading
  hats: bool
  budget: Budget
  symbolic: bool = False


class BadReference(Exception):
  """The reference, not the prediction, cannot be read; `cause` says why."""

  def __init__(self, cause: SeedError):
    super().__init__(str(cause))
    self.cause = cause


def read_reference(read, text: str, job: Job):
  """`read(text, job)` for a reference. Raises BadReference."""
  try:
    return read(text, job)
  except SeedError as error:
    raise BadReference(error) from error


def unit_reading(reading: Reading) -> Reading:
  """The same reading with bare words as units."""
  return dataclasses.replace(reading, units=True)


# Expression.


def expression(reference: str, prediction: str, job: Job) -> Mark:
  """A bare right side and `name = right side` count alike; of a chain the last member counts."""
  return trees(read_reference(read_expression, reference, job), read_expression(prediction, job), job)


def read_expression(text: str, job: Job) -> Node:
  """Parses the text of an Expression answer."""
  parts = [side(s, job.reading) for s in statements(tokens_of(text, job.reading))]
  return parts[0] if len(parts) == 1 else Node('list', tuple(parts), ')')


def trees(reference: Node, prediction: Node, job: Job) -> Mark:
  """The mark for two trees: expressions, inequalities or lists."""
  reference, prediction, ordered = settle(reference, prediction, hats=job.hats)
  both = pair(reference, prediction, ordered, job.budget)
  if both.reference == both.prediction:
    return Mark(100.0, 'structure')
  verdict = _verdict(reference, prediction, both.context)
  if verdict is Verdict.EQUAL:
    return Mark(100.0, 'numeric')
  if verdict is Verdict.UNDECIDED and job.symbolic and _symbolically_equal(both):
    return Mark(100.0, 'symbolic')
  flags = ('undecided',) if verdict is Verdict.UNDECIDED else ()
  return Mark(edit_points(both.reference, both.prediction, job.budget), 'distance', flags=flags)


def _symbolically_equal(both: Pair) -> bool:
  from bench.seed.algebra import symbolic

  return symbolic.equal(both.reference, both.prediction, both.context)


def _verdict(a: Node, b: Node, context) -> Verdict:
  """Equal or not, a ± standing for the set of its two branches."""
  if 'relation' in (a.head, b.head):
    return relation_verdict(a, b, context) if a.head == b.head else Verdict.DIFFERENT
  left, right = ([canonical(t, context) for t in branches(side)] for side in (a, b))
  if len(left) != len(right):
    return Verdict.DIFFERENT
  matches = []
  for order in itertools.permutations(right):
    verdicts = [compare(x, y, context) for x, y in zip(left, order)]
    if all(v is Verdict.EQUAL for v in verdicts):
      return Verdict.EQUAL
    matches.append(Verdict.DIFFERENT in verdicts)
  return Verdict.DIFFERENT if all(matches) else Verdict.UNDECIDED


def edit_points(reference: Node, prediction: Node, budget: Budget) -> float:
  """Partial credit of two canonical trees that are not equal."""
  flat, other = tree.Flat(reference), tree.Flat(prediction)
  size = len(flat.labels)
  # Inserting a surplus costs at least 0.6 a node, so from twice the size on nothing is left to earn.
  if len(other.labels) >= 2 * size + 8:
    return 0.0
  return tree.tree_points(max(1.0, tree.distance(other, flat, budget)), size)


# Equation.


def equation(reference: str, prediction: str, job: Job) -> Mark:
  """Left minus right, up to a factor; an equation never equals an inequality or an expression."""
  a, b = read_reference(_read_equation, reference, job), _read_equation(prediction, job)
  if a.head != 'relation' and b.head != 'relation':
    return trees(a, b, job)
  a, b, ordered = settle(a, b, hats=job.hats)
  context = pair(a, b, ordered, job.budget).context
  verdict = relation_verdict(a, b, context) if a.head == b.head else Verdict.DIFFERENT
  if verdict is Verdict.EQUAL:
    same = canonical(a, context) == canonical(b, context)
    return Mark(100.0, 'structure' if same else 'numeric')
  flags = ('undecided',) if verdict is Verdict.UNDECIDED else ()
  points = 0.0
  for x, y in itertools.product(_orientations(a), _orientations(b)):
    both = pair(x, y, ordered, job.budget)
    points = max(points, edit_points(both.reference, both.prediction, job.budget))
  return Mark(points, 'distance', flags=flags)


def _orientations(node: Node) -> list[Node]:
  """The differences an edit distance may be taken of: both ways round for an equality."""
  if node.head != 'relation':
    return [node]
  first, last = node.args[0], node.args[-1]
  return [subtract(first, last), subtract(last, first)] if node.value == ('=',) else [subtract(first, last)]


def _read_equation(text: str, job: Job) -> Node:
  """A relation of two members (the first and last of a chain of equalities), or an expression without a
  sign."""
  part = statements(tokens_of(text, job.reading))[0]
  if not part.signs:
    return member(part.members[0], job.reading)
  if part.inequality:
    return relation([member(m, job.reading) for m in part.members], part.signs)
  return relation([member(part.members[k], job.reading) for k in (0, -1)], ['='])


# Tuple.


def tuple_(reference: str, prediction: str, job: Job) -> Mark:
  """The mean over entries, matched by name where both sides name them, by position otherwise."""
  wanted, given = read_reference(_entries, reference, job), _entries(prediction, job)
  if len(wanted) != len(given):
    return Mark(0.0, 'structure')
  names, theirs = ([n for n, _ in entries] for entries in (wanted, given))
  if None not in names and len(set(names)) == len(names) and set(names) == set(theirs):
    found = dict(given)
    given = [(n, found[n]) for n in names]
  return mean([_entry(a, b, job) for (_, a), (_, b) in zip(wanted, given)])


def _entry(reference: list[Token], prediction: list[Token], job: Job) -> Mark:
  read = lambda tokens, job: side(statement(unwrap(tokens)), job.reading)
  wanted = read_reference(read, reference, job)
  try:
    return trees(wanted, read(prediction, job), job)
  except SeedError as error:
    return Mark(0.0, status=error.status)


def _entries(text: str, job: Job) -> list[tuple[tuple[str, ...] | None, list[Token]]]:
  """Each entry's name (None without one) and its tokens."""
  tokens = [t for t in tokens_of(text, job.reading) if t.kind != 'quad']
  tokens = [Token(',', ',') if t.kind in ('text', 'word') and t.text.strip(' ,') == 'and' else t for t in tokens]
  parts, signs = split_at(tokens, EQUALS)
  if signs and all(_bracketed(p) for p in (parts[-2], parts[-1])):
    names = [label(p) for p in comma_pieces(unwrap(parts[-2])[1:-1])]
    values = comma_pieces(unwrap(parts[-1])[1:-1])
    return list(zip(names, values)) if len(names) == len(values) else [(None, v) for v in values]
  if signs and len(parts) == 2 and _bracketed(parts[-1]) and len(comma_pieces(tokens)) == 1:
    tokens = parts[-1]
  if _bracketed(tokens):
    tokens = unwrap(trim(tokens))[1:-1]
  return [_named(piece) for piece in comma_pieces(tokens)]


def comma_pieces(tokens: list[Token]) -> list[list[Token]]:
  """The pieces between top-level commas. Raises ParseError where one is empty."""
  pieces = [trim(p) for p in split_at(trim(tokens), {',', ';'})[0]]
  if len(pieces) > 1 and not all(pieces):
    raise ParseError('nothing between two commas')
  return [p for p in pieces if p]


def _named(piece: list[Token]) -> tuple[tuple[str, ...] | None, list[Token]]:
  parts, signs = split_at(piece, EQUALS)
  return (label(parts[0]) if signs else None), parts[-1]


_PAIRS = {'(': ')', '[': ']', '\\{': '\\}', '\\langle': '\\rangle'}


def _bracketed(tokens: list[Token]) -> bool:
  """Whether one pair of brackets holds everything."""
  tokens = unwrap(trim(tokens))
  if len(tokens) < 2 or sign(tokens[-1]) != _PAIRS.get(sign(tokens[0])):
    return False
  return not split_at(tokens, {t.kind for t in tokens} - set('()[]'))[1] and _closes_last(tokens)


def _closes_last(tokens: list[Token]) -> bool:
  level = 0
  for k, token in enumerate(tokens):
    what = sign(token)
    level += (what in (*_PAIRS, '{')) - (what in (*_PAIRS.values(), '}'))
    if level == 0:
      return k == len(tokens) - 1
  return False
