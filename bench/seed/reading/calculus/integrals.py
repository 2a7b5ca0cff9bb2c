"""Integrals with their differentials; sums, products, unions and limits."""

import itertools

from bench.seed.nodes import Node, ParseError
from bench.seed.reading.calculus.bounds import BLANK, bound, read_bounds
from bench.seed.reading.calculus.derivatives import differential_sign
from bench.seed.reading.tokens import Token, sign


def take_differential(parser) -> bool:
  """Reads `dx` or `d^3k` into the open integral; False if none is here."""
  if differential_sign(parser.peek()) != 'd':
    return False
  start = parser.at
  parser.next()
  order = 1
  if parser.accept('^'):
    script = parser.script()
    if len(script) != 1 or not script[0].text.isdigit():
      parser.at = start
      return False
    order = int(script[0].text[:3])
  token = parser.peek()
  is_symbol_command = token.kind == 'command' and token.text not in ('frac', 'sqrt')
  if token.kind not in ('letter', '{') and not is_symbol_command:
    parser.at = start
    return False
  open_integrals = parser.integrals
  parser.integrals = []
  variable = parser.atom()
  parser.integrals = open_integrals
  parser.integrals[-1].append(Node('differential', (variable,), order))
  return True


def _differential_ahead(parser) -> bool:
  """Whether the next terms contain the differential of the open integral, outside brackets and other integrals."""
  level = 0
  for token, after in itertools.pairwise(parser.tokens[parser.at :]):
    what = sign(token)
    level += (what in ('{', '(', '[')) - (what in ('}', ')', ']'))
    if level < 0 or what in ('=', ',', '\\int', '\\oint', '\\iint', '\\iiint'):
      return False
    if level == 0 and differential_sign(token) == 'd' and after.kind in ('letter', 'command', '^'):
      return True
  return False


def integral(name: str):
  """The reader of one integral command."""

  def read(parser) -> Node:
    bounds = read_bounds(parser)
    lower = bound(parser, bounds.get('_'))
    upper = bound(parser, bounds.get('^'))
    parser.integrals.append([])
    terms = [parser.product()]
    while not parser.integrals[-1] and parser.ahead('+', '-') and _differential_ahead(parser):
      terms.append(parser.signed())
    differentials = parser.integrals.pop()
    body = terms[0] if len(terms) == 1 else Node('add', tuple(terms))
    variables = [differential.args[0] for differential in differentials]
    orders = tuple(differential.value for differential in differentials)
    return Node('integral', (body, lower, upper, *variables), (name, orders))

  return read


def _cut(tokens: list[Token], what: str) -> tuple[list[Token], list[Token] | None]:
  """The tokens before the first sign `what` and those after it; None for the latter without such a sign."""
  for k, token in enumerate(tokens):
    if sign(token) == what:
      return tokens[:k], tokens[k + 1 :]
  return tokens, None


def indexed(head: str):
  """The reader of one command with an index, such as a sum."""

  def read(parser) -> Node:
    bounds = read_bounds(parser)
    index, first = _cut(bounds.get('_', []), '=')
    if len(index) == 1 and index[0].kind == 'letter':
      parser.indices = parser.indices | {index[0].text}
    start = bound(parser, first)
    body = parser.product()
    return Node(head, (body, start, bound(parser, bounds.get('^')), bound(parser, index)))

  return read


def limit(parser) -> Node:
  """A limit, of the variable that goes to a target below it."""
  lower = read_bounds(parser).get('_', [])
  variable, target = _cut(lower, '\\to')
  if target is None:
    raise ParseError('a limit without an arrow')
  side = ''
  if len(target) > 2 and target[-2].kind == '^' and target[-1].kind in '+-':
    side = target[-1].kind
    target = target[:-2]
  variable = bound(parser, variable)
  to = bound(parser, target)
  return Node('limit', (parser.product(), to, BLANK, variable), side)
