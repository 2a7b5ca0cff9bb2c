"""Interval answers: one interval or a union of them, as brackets, membership or inequalities."""

import dataclasses

from bench.seed.kinds import Job, comma_pieces, edit_points, read_reference, trees
from bench.seed.nodes import INFINITY, Node, ParseError, negative, symbol
from bench.seed.pairs import pair, settle
from bench.seed.reading.splitting import MIRROR, ORDER, split_at, trim
from bench.seed.reading.statement import Statement, member, statement, tokens_of, unwrap
from bench.seed.reading.tokens import Token, sign
from bench.seed.result import Mark, mean

Bound = tuple[bool, Node]
"""Whether the end is closed, and its value."""
_MOST_PIECES = 16


def interval(reference: str, prediction: str, job: Job) -> Mark:
  """The mean over the bounds of marker × bound, the marker an opaque symbol for open or closed.

  A union counts interval by interval in any order; another number of intervals earns nothing.
  """
  wanted, given = read_reference(_pieces, reference, job), _pieces(prediction, job)
  if len(wanted) != len(given):
    return Mark(0.0, 'structure')
  marks = []
  for piece in wanted:
    scored = [_piece(piece, other, job) for other in given]
    best = max(range(len(given)), key=lambda k: scored[k].points)
    marks.append(scored[best])
    del given[best]
  return mean(marks)


def _piece(wanted: tuple[Bound, Bound], given: tuple[Bound, Bound], job: Job) -> Mark:
  return mean([_bound(*a, *b, job) for a, b in zip(wanted, given)])


def _bound(closed: bool, reference: Node, closed_too: bool, prediction: Node, job: Job) -> Mark:
  reference, prediction, ordered = settle(reference, prediction, hats=job.hats)
  both = pair(reference, prediction, ordered, job.budget)
  alike = trees(reference, prediction, job)
  if alike.points == 100 and closed == closed_too:
    return alike
  # The product is built without simplifying, so that a zero or infinite bound keeps its marker.
  marked = [
    Node('mul', (symbol('closed' if shut else 'open'), bound))
    for shut, bound in (
      (closed, both.reference),
      (closed_too, both.reference if alike.points == 100 else both.prediction),
    )
  ]
  return dataclasses.replace(alike, points=edit_points(*marked, job.budget), test='distance')


def _pieces(text: str, job: Job) -> list[tuple[Bound, Bound]]:
  """The intervals of an answer: those of a union, or of inequalities joined by the word "or"."""
  tokens = tokens_of(text, job.reading)
  start = max((k + 1 for k, t in enumerate(tokens) if sign(t) in ('\\in', '=')), default=0)
  tokens = unwrap(trim(tokens[start:]))
  joined = [Token('command', 'cup') if _is_or(t) else t for t in tokens]
  pieces = [unwrap(trim(piece)) for piece in split_at(joined, {'\\cup'})[0]]
  if len(pieces) > _MOST_PIECES:
    raise ParseError(f'a union of {len(pieces)} intervals, at most {_MOST_PIECES} are read')
  return [_bounds(piece, job) for piece in pieces]


def _is_or(token: Token) -> bool:
  return token.kind in ('text', 'word') and token.text.strip(' ,').lower() == 'or'


def _bounds(tokens: list[Token], job: Job) -> tuple[Bound, Bound]:
  """The lower and the upper end of one interval."""
  if tokens and tokens[0].kind in '([]' and tokens[-1].kind in ')][':
    pieces = comma_pieces(tokens[1:-1])
    if len(pieces) != 2:
      raise ParseError(f'an interval has two bounds, not {len(pieces)}')
    lower, upper = (member(p, job.reading) for p in pieces)
    return (tokens[0].kind == '[', lower), (tokens[-1].kind == ']', upper)
  return _from_inequality(statement(tokens), job)


def _from_inequality(part: Statement, job: Job) -> tuple[Bound, Bound]:
  if not part.signs or any(s not in ORDER for s in part.signs) or len(part.signs) > 2:
    raise ParseError('not an interval')
  nodes, signs = [member(m, job.reading) for m in part.members], part.signs
  below = nodes[0].head == 'symbol'
  if all(s in MIRROR for s in signs):
    nodes, signs, below = nodes[::-1], [MIRROR[s] for s in reversed(signs)], not below
  closed = [s == '\\leq' for s in signs]
  if len(nodes) == 3:
    return (closed[0], nodes[0]), (closed[1], nodes[2])
  if below:
    return (False, negative(INFINITY)), (closed[0], nodes[1])
  return (closed[0], nodes[0]), (False, INFINITY)
