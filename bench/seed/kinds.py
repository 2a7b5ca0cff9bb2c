"""Scorers of Expression and Tuple (Equation is in equations.py, Interval in intervals.py, Numeric in quantity.py)."""

from bench.seed.comparison import Job, read_reference, trees
from bench.seed.equations import equation
from bench.seed.nodes import Node, ParseError, SeedError
from bench.seed.reading.parser import Reading
from bench.seed.reading.splitting import EQUALS, split_at, top_level, trim
from bench.seed.reading.statement import Statement, commas_for_words, side, statement, statements, tokens_of, unwrap
from bench.seed.reading.tokens import Token, label, sign
from bench.seed.result import Mark, mean

UNDER = Token('_', '_')

# Expression.


def expression(reference: str, prediction: str, job: Job) -> Mark:
  """A bare right side and `name = right side` are equivalent; of a chain the last member counts.

  Two answers such as x^2-11=0, which say nothing with their last members alone, are compared as equations; so is a sum
  that equals 0 with any other answer that has an equals sign.
  """
  answers = [_statements(text, job.reading) for text in (reference, prediction)]
  lefts = list(map(_unsolved, answers))
  if all(lefts) and any(map(_is_sum, lefts)):
    return equation(reference, prediction, job)
  if all(map(_equates, answers)) and any(map(_is_zero_sum, answers)):
    return equation(reference, prediction, job)
  wanted = read_reference(read_expression, reference, job)
  return trees(wanted, read_expression(prediction, job), job)


def _statements(text: str, reading: Reading) -> list[Statement]:
  """The statements of an answer; none of one that cannot be read."""
  try:
    return statements(tokens_of(text, reading))
  except SeedError:
    return []


def _equates(parts: list[Statement]) -> bool:
  return any('=' in part.signs for part in parts)


def _unsolved(parts: list[Statement]) -> list[Token] | None:
  """The left side of an answer that equates symbols, but not a name, with a number; None for any other answer."""
  if len(parts) != 1 or parts[0].signs != ['=']:
    return None
  left, right = parts[0].members
  is_value = _is_name(left) or not _has_letter(left) or _has_letter(right)
  if is_value:
    return None
  return left


def _is_name(tokens: list[Token]) -> bool:
  """Whether the tokens are one symbol or one function, subscripts, arguments and accents included."""
  outside = [tokens[k] for k in top_level(tokens)]
  previous = [None, *outside]
  main = [token for token, before in zip(outside, previous) if before != UNDER]
  kinds = {token.kind for token in main}
  symbols = [token for token in main if token.kind in ('letter', 'command')]
  return len(symbols) <= 1 and not kinds & {'number', '^', '+', '-'}


def _is_zero_sum(parts: list[Statement]) -> bool:
  left = _unsolved(parts)
  return left is not None and _is_sum(left) and parts[0].members[-1] == [Token('number', '0')]


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
  tokens = commas_for_words([token for token in tokens_of(text, job.reading) if token.kind != 'quad'])
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
