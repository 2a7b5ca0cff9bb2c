"""Interval answers: one interval or a union of them, as brackets, membership or inequalities."""

import dataclasses
from typing import NamedTuple

from bench.seed.comparison import Job, edit_points, read_reference, trees
from bench.seed.kinds import comma_pieces
from bench.seed.nodes import INFINITY, Node, ParseError, negative, symbol
from bench.seed.pairs import pair, settle
from bench.seed.reading.splitting import ORDER, WORDS, mirrored, split_at, trim, unwrap
from bench.seed.reading.statement import Statement, member, statement, tokens_of
from bench.seed.reading.tokens import Token, sign
from bench.seed.result import Mark, mean

_MOST_INTERVALS = 16
_CUP = Token('command', 'cup')


class Bound(NamedTuple):
  """An end of an interval."""

  closed: bool
  value: Node


class Interval(NamedTuple):
  """Its two ends."""

  lower: Bound
  upper: Bound


def interval(reference: str, prediction: str, job: Job) -> Mark:
  """The mean over the bounds of marker × bound, the marker an opaque symbol for open or closed.

  The intervals of a union are matched in any order; another number of intervals earns nothing.
  """
  wanted = read_reference(_intervals, reference, job)
  given = _intervals(prediction, job)
  if len(wanted) != len(given):
    return Mark(0.0, 'structure')
  marks = []
  for piece in wanted:
    mark, partner = _best_partner(piece, given, job)
    marks.append(mark)
    given.remove(partner)
  return mean(marks)


def _best_partner(wanted: Interval, given: list[Interval], job: Job) -> tuple[Mark, Interval]:
  """The mark and the interval of the first one that earns the most."""
  best = None
  for other in given:
    mark = _mark(wanted, other, job)
    if best is None or mark.points > best[0].points:
      best = (mark, other)
  return best


def _mark(wanted: Interval, given: Interval, job: Job) -> Mark:
  lower = _bound_mark(wanted.lower, given.lower, job)
  upper = _bound_mark(wanted.upper, given.upper, job)
  return mean([lower, upper])


def _bound_mark(wanted: Bound, given: Bound, job: Job) -> Mark:
  reference, prediction, ordered = settle(wanted.value, given.value, hats=job.hats)
  values = trees(reference, prediction, job)
  is_equal = values.points == 100
  if is_equal and wanted.closed == given.closed:
    return values
  both = pair(reference, prediction, ordered, job.budget)
  value = both.prediction
  if is_equal:  # only the brackets differ
    value = both.reference
  first = _marked(wanted.closed, both.reference)
  second = _marked(given.closed, value)
  points = edit_points(first, second, job.budget)
  return dataclasses.replace(values, points=points, test='distance')


def _marked(is_closed: bool, bound: Node) -> Node:
  """Marker × bound, not simplified, so that a zero or infinite bound keeps its marker."""
  marker = 'closed' if is_closed else 'open'
  return Node('mul', (symbol(marker), bound))


def _intervals(text: str, job: Job) -> list[Interval]:
  """The intervals of an answer: those of a union, or of inequalities joined by the word "or"."""
  tokens = _values(tokens_of(text, job.reading))
  joined = [_CUP if _is_or(token) else token for token in tokens]
  pieces, _ = split_at(joined, {'\\cup'})
  if len(pieces) > _MOST_INTERVALS:
    raise ParseError(f'a union of {len(pieces)} intervals, at most {_MOST_INTERVALS} are read')
  return [_interval(piece, job) for piece in pieces]


def _values(tokens: list[Token]) -> list[Token]:
  """The tokens after the last sign of membership or equality."""
  start = 0
  for place, token in enumerate(tokens, 1):
    if sign(token) in ('\\in', '='):
      start = place
  return unwrap(trim(tokens[start:]))


def _is_or(token: Token) -> bool:
  word = token.text.strip(' ,')
  return token.kind in WORDS and word.lower() == 'or'


def _interval(piece: list[Token], job: Job) -> Interval:
  """One interval, in brackets or as inequalities."""
  tokens = unwrap(trim(piece))
  has_brackets = len(tokens) > 1 and tokens[0].kind in '([]' and tokens[-1].kind in ')]['
  if not has_brackets:
    return _from_inequality(statement(tokens), job)
  opening, *inside, closing = tokens
  pieces = comma_pieces(inside)
  if len(pieces) != 2:
    raise ParseError(f'an interval has two bounds, not {len(pieces)}')
  lower, upper = (member(piece, job.reading) for piece in pieces)
  return Interval(Bound(opening.kind == '[', lower), Bound(closing.kind == ']', upper))


def _from_inequality(part: Statement, job: Job) -> Interval:
  """What one or two inequalities give; one inequality leaves the side of its variable infinite."""
  is_chain = len(part.signs) in (1, 2) and ORDER.issuperset(part.signs)
  if not is_chain:
    raise ParseError('not an interval')
  members = [member(tokens, job.reading) for tokens in part.members]
  nodes, signs = mirrored(members, part.signs)
  closed = [what == '\\leq' for what in signs]
  first = Bound(closed[0], nodes[0])
  last = Bound(closed[-1], nodes[-1])
  if len(nodes) == 3:
    return Interval(first, last)
  is_first_variable = members[0].head == 'symbol'
  is_mirrored = signs != part.signs
  if is_first_variable != is_mirrored:  # the variable is on the smaller side
    return Interval(Bound(False, negative(INFINITY)), last)
  return Interval(first, Bound(False, INFINITY))
