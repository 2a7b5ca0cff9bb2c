"""Tokens cut at the signs outside their brackets, and the signs of relations."""

import itertools

from bench.seed.nodes import Node
from bench.seed.reading.tokens import Token, sign

EQUALS = frozenset(('=', '\\approx', '\\simeq', '\\sim', '\\equiv', '\\cong', '\\propto', '\\doteq', '\\triangleq'))
# Each inequality and its mirror image; one of the two is the normal form.
MIRROR = {'>': '<', '\\geq': '\\leq', '\\gg': '\\ll', '\\gtrsim': '\\lesssim', '\\succ': '\\prec'}
ORDER = frozenset((*MIRROR, *MIRROR.values()))
RELATIONS = EQUALS | ORDER | {'\\neq', '\\in', '\\to'}
OPENING = frozenset(('(', '[', '{', '\\{', 'open|', 'begin', '\\langle', '\\lfloor', '\\lceil'))
CLOSING = frozenset((')', ']', '}', '\\}', 'close|', 'end', '\\rangle', '\\rfloor', '\\rceil'))
_AFTER_INTERVAL = frozenset(('\\cup', '\\cap', '\\setminus', ',', ';', '.', 'quad', 'text', 'word', '\\}', '}'))


def trim(tokens: list[Token]) -> list[Token]:
  """Tokens without punctuation and blanks at either end."""
  start, end = 0, len(tokens)
  while start < end and tokens[start].kind in ('quad', ',', ';', ':', '&', '.'):
    start += 1
  while end > start and tokens[end - 1].kind in ('quad', ',', ';', '.', 'row', '&'):
    end -= 1
  return tokens[start:end]


def top_level(tokens: list[Token]) -> list[int]:
  """Positions of tokens outside all brackets, the brackets themselves left out."""
  level, found = 0, []
  kets = _kets(tokens) if any(t.text == 'rangle' for t in tokens) else ()
  for k, token in enumerate(tokens):
    what = sign(token)
    if what in OPENING or k in kets:
      level += 1
    elif what in CLOSING:
      # The bar of "at x = 0" closes nothing.
      level = max(level - 1, 0)
    elif level == 0:
      found.append(k)
  return found


def _kets(tokens: list[Token]) -> set[int]:
  """Positions of the bars that open a ket: the next angle or bar after them is a right angle."""
  found, bar, angles = set(), None, 0
  for k, token in enumerate(tokens):
    what = sign(token)
    if what == '\\langle':
      angles, bar = angles + 1, None
    elif what in ('|', 'open|', 'close|'):
      bar = None if angles else k
    elif what == '\\rangle':
      found |= {bar} if bar is not None and not angles else set()
      angles, bar = max(angles - 1, 0), None
  return found


def split_at(tokens: list[Token], signs: frozenset[str] | set[str]) -> tuple[list[list[Token]], list[str]]:
  """The pieces between the top-level tokens with these signs, and those signs."""
  cuts = [k for k in top_level(tokens) if sign(tokens[k]) in signs]
  edges = [-1, *cuts, len(tokens)]
  return [tokens[a + 1 : b] for a, b in itertools.pairwise(edges)], [sign(tokens[k]) for k in cuts]


def rounded(tokens: list[Token]) -> list[Token]:
  """Open ends written ]a, b[ as the round brackets (a, b) that they stand for."""
  tokens, k = list(tokens), 0
  while k < len(tokens):
    if tokens[k].kind in ('[', ']'):
      k = _rounded_from(tokens, k)
    k += 1
  return tokens


def _rounded_from(tokens: list[Token], start: int) -> int:
  """Rewrites the interval whose first bracket is at `start`; returns the place to continue from."""
  end = _interval_end(tokens, start)
  if end is None:
    return start
  if tokens[start].kind == ']':
    tokens[start] = Token('(', '(')
  if tokens[end].kind == '[':
    tokens[end] = Token(')', ')')
  return end


def _interval_end(tokens: list[Token], start: int) -> int | None:
  """The square bracket that ends an interval of two bounds; None where the tokens are no interval."""
  level = commas = 0
  for k in range(start + 1, len(tokens)):
    kind = sign(tokens[k])
    if level == 0 and kind in ('[', ']'):
      last = k + 1 == len(tokens) or sign(tokens[k + 1]) in _AFTER_INTERVAL
      return k if commas == 1 and last else None
    level += (kind in OPENING) - (kind in CLOSING)
    commas += level == 0 and kind in (',', ';')
    if level < 0:
      return None
  return None


def relation(nodes: list[Node], signs: list[str]) -> Node:
  """A relation node in the one direction that equals its mirror image."""
  if all(s in MIRROR for s in signs):
    nodes, signs = nodes[::-1], [MIRROR[s] for s in reversed(signs)]
  return Node('relation', tuple(nodes), tuple(signs))
