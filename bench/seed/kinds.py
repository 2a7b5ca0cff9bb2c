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
from bench.seed.reading.splitting import EQUALS, relation, split_at, top_level, trim
from bench.seed.reading.statement import member, side, statement, statements, tokens_of, unwrap
from bench.seed.reading.tokens import Token, label, sign
from bench.seed.result import Mark, mean

UNDER = Token('_', '_')


@dataclasses.dataclass
class Job:
  """One pair's reading rules, hat setting and remaining work; symbolic: whether sympy may be used."""

  reading: Reading
  hats: bool
  budget: Budget
  symbolic: bool = False


class BadReference(Exception):
  """The reference, not the prediction, cannot be read; `cause` is the reason."""

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
  """A bare right side and `name = right side` are equivalent; of a chain the last member counts.

  Two answers such as x^2-11=0, which say nothing with their last members alone, are compared as equations.
  """
  lefts = [_unsolved(text, job.reading) for text in (reference, prediction)]
  if all(lefts) and any(map(_is_sum, lefts)):
    return equation(reference, prediction, job)
  wanted = read_reference(read_expression, reference, job)
  return trees(wanted, read_expression(prediction, job), job)


def _unsolved(text: str, reading: Reading) -> list[Token] | None:
  """The left side of an answer that equates symbols, but not a name, with a number; None for any other answer."""
  try:
    parts = statements(tokens_of(text, reading))
  except SeedError:
    return None
  if len(parts) != 1 or parts[0].signs != ['=']:
    return None
  left, right = parts[0].members
  is_value = _is_name(left) or not _has_letter(left) or _has_letter(right)
  return None if is_value else left


def _is_name(tokens: list[Token]) -> bool:
  """Whether the tokens are one symbol or one function, subscripts, arguments and accents included."""
  outside = [tokens[k] for k in top_level(tokens)]
  main = [token for token, before in zip(outside, [None, *outside]) if before != UNDER]
  symbols = [token for token in main if token.kind in ('letter', 'command')]
  return len(symbols) <= 1 and all(token.kind not in ('number', '^', '+', '-') for token in main)


def _is_sum(tokens: list[Token]) -> bool:
  terms, _ = split_at(tokens, {'+', '-'})
  return len(terms) > 1


def _has_letter(tokens: list[Token]) -> bool:
  return any(token.kind == 'letter' for token in tokens)


def read_expression(text: str, job: Job) -> Node:
  """Parses the text of an Expression answer."""
  tokens = tokens_of(text, job.reading)
  parts = [side(part, job.reading) for part in statements(tokens)]
  if len(parts) == 1:
    return parts[0]
  return Node('list', tuple(parts), ')')


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
  points = edit_points(both.reference, both.prediction, job.budget)
  return Mark(points, 'distance', flags=_flags(verdict))


def _flags(verdict: Verdict) -> tuple[str, ...]:
  return ('undecided',) if verdict is Verdict.UNDECIDED else ()


def _symbolically_equal(both: Pair) -> bool:
  from bench.seed.algebra import symbolic

  return symbolic.equal(both.reference, both.prediction, both.context)


def _verdict(a: Node, b: Node, context) -> Verdict:
  """Whether the two are equal, where a ± means the set of its two branches."""
  if 'relation' in (a.head, b.head):
    return relation_verdict(a, b, context) if a.head == b.head else Verdict.DIFFERENT
  left = [canonical(branch, context) for branch in branches(a)]
  right = [canonical(branch, context) for branch in branches(b)]
  if len(left) != len(right):
    return Verdict.DIFFERENT
  is_different = True
  for order in itertools.permutations(right):
    verdicts = [compare(x, y, context) for x, y in zip(left, order)]
    if all(verdict is Verdict.EQUAL for verdict in verdicts):
      return Verdict.EQUAL
    is_different = is_different and Verdict.DIFFERENT in verdicts
  return Verdict.DIFFERENT if is_different else Verdict.UNDECIDED


def edit_points(reference: Node, prediction: Node, budget: Budget) -> float:
  """Partial credit of two canonical trees that are not equal."""
  wanted = tree.Flat(reference)
  given = tree.Flat(prediction)
  size = len(wanted.labels)
  # Inserting a surplus costs at least 0.6 a node, so a tree of twice the size earns nothing.
  if len(given.labels) >= 2 * size + 8:
    return 0.0
  gap = tree.distance(given, wanted, budget)
  return tree.tree_points(max(1.0, gap), size)


# Equation.


def equation(reference: str, prediction: str, job: Job) -> Mark:
  """Left minus right, up to a factor; an equation never equals an inequality or an expression."""
  a = read_reference(_read_equation, reference, job)
  b = _read_equation(prediction, job)
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
  return Mark(points, 'distance', flags=_flags(verdict))


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


def _read_equation(text: str, job: Job) -> Node:
  """A relation of two members (first and last of a chain of equalities), or an expression without a sign."""
  part = statements(tokens_of(text, job.reading))[0]
  if not part.signs:
    return member(part.members[0], job.reading)
  if part.inequality:
    members = [member(tokens, job.reading) for tokens in part.members]
    return relation(members, part.signs)
  first = member(part.members[0], job.reading)
  last = member(part.members[-1], job.reading)
  return relation([first, last], ['='])


# Tuple.


def tuple_(reference: str, prediction: str, job: Job) -> Mark:
  """The mean over entries, matched by name if both sides name all of them, else by position."""
  wanted = read_reference(_entries, reference, job)
  given = _entries(prediction, job)
  if len(wanted) != len(given):
    return Mark(0.0, 'structure')
  names = [name for name, _ in wanted]
  names_given = [name for name, _ in given]
  is_named = None not in names and len(set(names)) == len(names)
  if is_named and set(names) == set(names_given):
    by_name = dict(given)
    given = [(name, by_name[name]) for name in names]
  return mean([_entry(a, b, job) for (_, a), (_, b) in zip(wanted, given)])


def _entry(reference: list[Token], prediction: list[Token], job: Job) -> Mark:
  wanted = read_reference(_read_entry, reference, job)
  try:
    return trees(wanted, _read_entry(prediction, job), job)
  except SeedError as error:
    return Mark(0.0, status=error.status)


def _read_entry(tokens: list[Token], job: Job) -> Node:
  return side(statement(unwrap(tokens)), job.reading)


def _entries(text: str, job: Job) -> list[tuple[tuple[str, ...] | None, list[Token]]]:
  """Each entry's name (None without one) and its tokens."""
  tokens = [_comma_for_and(token) for token in tokens_of(text, job.reading) if token.kind != 'quad']
  parts, signs = split_at(tokens, EQUALS)
  if signs and _bracketed(parts[-2]) and _bracketed(parts[-1]):
    names = [label(piece) for piece in comma_pieces(unwrap(parts[-2])[1:-1])]
    values = comma_pieces(unwrap(parts[-1])[1:-1])
    if len(names) != len(values):
      names = [None] * len(values)
    return list(zip(names, values))
  if signs and len(parts) == 2 and _bracketed(parts[-1]) and len(comma_pieces(tokens)) == 1:
    tokens = parts[-1]
  if _bracketed(tokens):
    tokens = unwrap(trim(tokens))[1:-1]
  return [_named(piece) for piece in comma_pieces(tokens)]


def comma_pieces(tokens: list[Token]) -> list[list[Token]]:
  """The pieces between top-level commas. Raises ParseError if one is empty."""
  pieces, _ = split_at(trim(tokens), {',', ';'})
  pieces = list(map(trim, pieces))
  if len(pieces) > 1 and not all(pieces):
    raise ParseError('nothing between two commas')
  return [piece for piece in pieces if piece]


def _comma_for_and(token: Token) -> Token:
  """The word "and" as a comma; any other token as it is."""
  is_and = token.kind in ('text', 'word') and token.text.strip(' ,') == 'and'
  return Token(',', ',') if is_and else token


def _named(piece: list[Token]) -> tuple[tuple[str, ...] | None, list[Token]]:
  """The name of an entry written `name = value` (else None), and the tokens of its value."""
  parts, signs = split_at(piece, EQUALS)
  name = label(parts[0]) if signs else None
  return name, parts[-1]


_PAIRS = {'(': ')', '[': ']', '\\{': '\\}', '\\langle': '\\rangle'}


def _bracketed(tokens: list[Token]) -> bool:
  """Whether one pair of brackets encloses all tokens."""
  tokens = unwrap(trim(tokens))
  if len(tokens) < 2 or sign(tokens[-1]) != _PAIRS.get(sign(tokens[0])):
    return False
  kinds = {token.kind for token in tokens} - set('()[]')
  _, outside = split_at(tokens, kinds)
  return not outside and _closes_last(tokens)


def _closes_last(tokens: list[Token]) -> bool:
  """Whether the last token is the one that closes the first."""
  level = 0
  for k, token in enumerate(tokens):
    what = sign(token)
    level += (what in (*_PAIRS, '{')) - (what in (*_PAIRS.values(), '}'))
    if level == 0:
      return k == len(tokens) - 1
  return False
