"""Interval answers: one interval or a union of them, as brackets, membership or inequalities."""

import dataclasses

from bench.seed.comparison import Job, edit_points, read_reference, trees
from bench.seed.kinds import comma_pieces
from bench.seed.nodes import INFINITY, Node, ParseError, negative, symbol
from bench.seed.pairs import pair, settle
from bench.seed.reading.splitting import ORDER, mirrored, split_at, trim, unwrap
from bench.seed.reading.statement import Statement, member, statement, tokens_of
from bench.seed.reading.tokens import Token, sign
from bench.seed.result import Mark, mean

Bound = tuple[bool, Node]
"""Whether the end is closed, and its value."""
_MOST_PIECES = 16


def interval(reference: str, prediction: str, job: Job) -> Mark:
  """The mean over the bounds of marker × bound, the marker an opaque symbol for open or closed.

  The intervals of a union are matched in any order; another number of intervals earns nothing.
  """
  wanted = read_reference(_pieces, reference, job)
  given = _pieces(prediction, job)
  if len(wanted) != len(given):
    return Mark(0.0, 'structure')
  marks = []
  for piece in wanted:
    scored = [_piece(piece, other, job) for other in given]
    points = [mark.points for mark in scored]
    best = points.index(max(points))
    marks.append(scored[best])
    del given[best]
  return mean(marks)


def _piece(wanted: tuple[Bound, Bound], given: tuple[Bound, Bound], job: Job) -> Mark:
  return mean([_bound(a, b, job) for a, b in zip(wanted, given)])


def _bound(wanted: Bound, given: Bound, job: Job) -> Mark:
  is_closed, reference = wanted
  is_given_closed, prediction = given
  reference, prediction, ordered = settle(reference, prediction, hats=job.hats)
  both = pair(reference, prediction, ordered, job.budget)
  values = trees(reference, prediction, job)
  is_equal = values.points == 100
  if is_equal and is_closed == is_given_closed:
    return values
  first = _marked(is_closed, both.reference)
  second = _marked(is_given_closed, both.reference if is_equal else both.prediction)
  return dataclasses.replace(values, points=edit_points(first, second, job.budget), test='distance')


def _marked(is_closed: bool, bound: Node) -> Node:
  """Marker × bound, not simplified, so that a zero or infinite bound keeps its marker."""
  return Node('mul', (symbol('closed' if is_closed else 'open'), bound))


def _pieces(text: str, job: Job) -> list[tuple[Bound, Bound]]:
  """The intervals of an answer: those of a union, or of inequalities joined by the word "or"."""
  tokens = tokens_of(text, job.reading)
  starts = [k + 1 for k, token in enumerate(tokens) if sign(token) in ('\\in', '=')]
  start = starts[-1] if starts else 0
  tokens = unwrap(trim(tokens[start:]))
  joined = [Token('command', 'cup') if _is_or(token) else token for token in tokens]
  pieces, _ = split_at(joined, {'\\cup'})
  if len(pieces) > _MOST_PIECES:
    raise ParseError(f'a union of {len(pieces)} intervals, at most {_MOST_PIECES} are read')
  return [_bounds(unwrap(trim(piece)), job) for piece in pieces]


def _is_or(token: Token) -> bool:
  return token.kind in ('text', 'word') and token.text.strip(' ,').lower() == 'or'


def _bounds(tokens: list[Token], job: Job) -> tuple[Bound, Bound]:
  """The lower and the upper end of one interval."""
  if tokens and tokens[0].kind in '([]' and tokens[-1].kind in ')][':
    pieces = comma_pieces(tokens[1:-1])
    if len(pieces) != 2:
      raise ParseError(f'an interval has two bounds, not {len(pieces)}')
    lower, upper = (member(piece, job.reading) for piece in pieces)
    lower_bound = (tokens[0].kind == '[', lower)
    upper_bound = (tokens[-1].kind == ']', upper)
    return lower_bound, upper_bound
  return _from_inequality(statement(tokens), job)


def _from_inequality(part: Statement, job: Job) -> tuple[Bound, Bound]:
  """The bounds that one or two inequalities give; one inequality leaves the side of its variable infinite."""
  is_chain = 1 <= len(part.signs) <= 2 and all(what in ORDER for what in part.signs)
  if not is_chain:
    raise ParseError('not an interval')
  members = [member(tokens, job.reading) for tokens in part.members]
  nodes, signs = mirrored(members, part.signs)
  closed = [what == '\\leq' for what in signs]
  if len(nodes) == 3:
    return (closed[0], nodes[0]), (closed[1], nodes[2])
  is_first_variable = members[0].head == 'symbol'
  is_mirrored = signs != part.signs
  if is_first_variable != is_mirrored:  # the variable is on the smaller side
    return (False, negative(INFINITY)), (closed[0], nodes[1])
  return (closed[0], nodes[0]), (False, INFINITY)
