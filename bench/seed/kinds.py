"""Scorers of Expression and Tuple (Equation is in equations.py, Interval in intervals.py, Numeric in quantity.py)."""

from typing import NamedTuple

from bench.seed.comparison import Job, read_reference, trees
from bench.seed.equations import equation, renamed, statements_of
from bench.seed.nodes import Node, ParseError, SeedError
from bench.seed.reading.answer import statements
from bench.seed.reading.atoms.symbols import ACCENTS
from bench.seed.reading.splitting import EQUALS, commas_for_words, is_name, matching, split_at, top_level, trim, unwrap
from bench.seed.reading.statement import Statement, side, statement, tokens_of
from bench.seed.reading.tokens import Token, label, sign
from bench.seed.result import Mark, mean

ZERO = [Token('number', '0')]
_CHANGES = frozenset(('\\Delta', '\\delta'))  # in front of a name they make another name

# Expression.


def expression(reference: str, prediction: str, job: Job) -> Mark:
  """A bare right side and `name = right side` are equivalent; of a chain the last member counts.

  Two answers such as x^2-11=0, which say nothing with their last members alone, are compared as equations; so is a
  sum that equals 0 with any answer, another thing that equals 0 and is no name with any that has an equals sign, and
  P(1)=x with P(2)=x.
  """
  a = statements_of(reference, job.reading)
  b = statements_of(prediction, job.reading)
  if _are_equations(a, b) or renamed(a, b) is not None:
    return equation(reference, prediction, job)
  wanted = read_reference(read_expression, reference, job)
  given = read_expression(prediction, job)
  return trees(wanted, given, job)


def _are_equations(a: list[Statement], b: list[Statement]) -> bool:
  """Whether two answers say something as equations only."""
  left_a = _unsolved(a)
  left_b = _unsolved(b)
  if left_a and left_b and (_is_sum(left_a) or _is_sum(left_b)):
    return True
  if _equates(a) and _equates(b):
    return _is_law(a) or _is_law(b)
  return _is_sum_law(a) or _is_sum_law(b)


def _equates(parts: list[Statement]) -> bool:
  return any(EQUALS.intersection(part.signs) for part in parts)


def _unsolved(parts: list[Statement]) -> list[Token] | None:
  """The left side of an answer that equates symbols, but not a name, with a number; None for any other answer."""
  if len(parts) != 1 or len(parts[0].signs) != 1 or parts[0].inequality:
    return None
  left, right = parts[0].members
  if _is_quantity(left):
    return None
  if _has_letter(right) or not _has_letter(left):
    return None
  return left


def _is_quantity(tokens: list[Token]) -> bool:
  """Whether a left side names one quantity: a name, a change of one, a derivative; not a commutator."""
  if tokens and tokens[0].kind == '[':
    return False
  outside = [sign(tokens[place]) for place in top_level(tokens)]
  if outside == ['\\frac']:
    return True
  has_change = bool(outside) and outside[0] in _CHANGES
  return is_name(tokens[has_change:])


def _is_law(parts: list[Statement]) -> bool:
  """Whether an answer equates more than a name with 0, so that the 0 says nothing."""
  left = _unsolved(parts)
  return left is not None and _is_zero(parts[0].members[-1])


def _is_sum_law(parts: list[Statement]) -> bool:
  """Whether an answer says that a sum is 0, which the bare number 0 does not say."""
  return _is_law(parts) and _is_sum(parts[0].members[0])


def _is_zero(tokens: list[Token]) -> bool:
  """Whether tokens are 0 or a vector 0."""
  digits = [token for token in tokens if token.kind not in '{}' and token.text not in ACCENTS]
  return digits == ZERO


def _is_sum(tokens: list[Token]) -> bool:
  terms, _ = split_at(tokens, {'+', '-'})
  return len(terms) > 1


def _has_letter(tokens: list[Token]) -> bool:
  return any(token.kind == 'letter' for token in tokens)


def read_expression(text: str, job: Job) -> Node:
  """Parses the text of an Expression answer."""
  tokens = tokens_of(text, job.reading)
  nodes = [side(part, job.reading) for part in statements(tokens)]
  if len(nodes) == 1:
    return nodes[0]
  return Node('list', tuple(nodes), ')')


# Tuple.


def tuple_(reference: str, prediction: str, job: Job) -> Mark:
  """The mean over entries, matched by name if both sides name all of them, else by position."""
  wanted = read_reference(_entries, reference, job)
  given = _entries(prediction, job)
  if len(wanted) != len(given):
    return Mark(0.0, 'structure')
  marks = []
  for entry, partner in zip(wanted, _ordered(given, like=wanted)):
    marks.append(_entry_mark(entry.value, partner.value, job))
  return mean(marks)


class Entry(NamedTuple):
  """The value of an entry, and its name where it is written `name = value`."""

  name: tuple[str, ...] | None
  value: list[Token]


def _ordered(entries: list[Entry], *, like: list[Entry]) -> list[Entry]:
  """`entries` in the order of the names of `like`; as they are unless both name the same things, each once."""
  by_name = {entry.name: entry for entry in entries}
  names = [entry.name for entry in like]
  is_named = None not in names and len(set(names)) == len(names)
  if not is_named or set(names) != set(by_name):
    return entries
  return [by_name[name] for name in names]


def _entry_mark(reference: list[Token], prediction: list[Token], job: Job) -> Mark:
  wanted = read_reference(_read_entry, reference, job)
  try:
    given = _read_entry(prediction, job)
    return trees(wanted, given, job)
  except SeedError as error:
    return Mark(0.0, status=error.status)


def _read_entry(tokens: list[Token], job: Job) -> Node:
  part = statement(unwrap(tokens))
  return side(part, job.reading)


def _entries(text: str, job: Job) -> list[Entry]:
  tokens = tokens_of(text, job.reading)
  tokens = [token for token in tokens if token.kind != 'quad']
  tokens = commas_for_words(tokens)
  members, signs = split_at(tokens, EQUALS)
  values = members[-1]
  if signs and _bracketed(members[-2]) and _bracketed(values):
    return _named_apart(members[-2], values)
  is_one = len(comma_pieces(tokens)) == 1
  if len(signs) == 1 and is_one and _bracketed(values):
    tokens = values
  if _bracketed(tokens):
    tokens = _inside(tokens)
  entries = [_named(piece) for piece in comma_pieces(tokens)]
  if not entries:
    raise ParseError('a tuple without an entry')
  return entries


def _named_apart(names: list[Token], values: list[Token]) -> list[Entry]:
  """The entries of (a, b) = (1, 2); without names if their numbers differ."""
  names = comma_pieces(_inside(names))
  values = comma_pieces(_inside(values))
  if len(names) != len(values):
    return [Entry(None, value) for value in values]
  return [Entry(label(name), value) for name, value in zip(names, values)]


def _named(piece: list[Token]) -> Entry:
  """The entry of the tokens between two commas."""
  members, signs = split_at(piece, EQUALS)
  name = None
  if signs:
    name = label(members[0])
  return Entry(name, members[-1])


def comma_pieces(tokens: list[Token]) -> list[list[Token]]:
  """The pieces between top-level commas. Raises ParseError if one is empty."""
  pieces, _ = split_at(trim(tokens), {',', ';'})
  pieces = list(map(trim, pieces))
  if len(pieces) > 1 and not all(pieces):
    raise ParseError('nothing between two commas')
  return [piece for piece in pieces if piece]


_PAIRS = {'(': ')', '[': ']', '\\{': '\\}', '\\langle': '\\rangle'}


def _inside(tokens: list[Token]) -> list[Token]:
  """The tokens between the brackets that enclose them all."""
  tokens = unwrap(trim(tokens))
  return tokens[1:-1]


def _bracketed(tokens: list[Token]) -> bool:
  """Whether one pair of brackets encloses all tokens."""
  tokens = unwrap(trim(tokens))
  if len(tokens) < 2:
    return False
  first = sign(tokens[0])
  last = sign(tokens[-1])
  return last == _PAIRS.get(first) and matching(tokens) == len(tokens) - 1
