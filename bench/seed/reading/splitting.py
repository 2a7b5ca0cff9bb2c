"""Splitting tokens at signs outside brackets, and the signs of relations."""

import itertools

from bench.seed.nodes import Node
from bench.seed.reading.atoms.symbols import ACCENTS
from bench.seed.reading.tokens import Token, sign

EQUALS = frozenset(('=', '\\approx', '\\simeq', '\\sim', '\\equiv', '\\cong', '\\propto', '\\doteq', '\\triangleq'))
# Each inequality and its mirror image; one of the two is the normal form.
MIRROR = {'>': '<', '\\geq': '\\leq', '\\gg': '\\ll', '\\gtrsim': '\\lesssim', '\\succ': '\\prec'}
MIRROR_IMAGES = MIRROR | {smaller: larger for larger, smaller in MIRROR.items()}
ORDER = frozenset((*MIRROR, *MIRROR.values()))
RELATIONS = EQUALS | ORDER | {'\\neq', '\\in', '\\to'}
OPENING = frozenset(('(', '[', '{', '\\{', 'open|', 'begin', '\\langle', '\\lfloor', '\\lceil'))
CLOSING = frozenset((')', ']', '}', '\\}', 'close|', 'end', '\\rangle', '\\rfloor', '\\rceil'))
_AFTER_INTERVAL = frozenset(('\\cup', '\\cap', '\\setminus', ',', ';', '.', 'quad', 'text', 'word', '\\}', '}'))

COMMA = Token(',', ',')
WORDS = frozenset(('text', 'word'))  # kinds of tokens
_UNDER = Token('_', '_')
_OF_SUMS = frozenset(('number', '^', '+', '-'))  # what no name holds outside its brackets


def trim(tokens: list[Token]) -> list[Token]:
  """Tokens without punctuation and blanks at either end."""
  start = 0
  end = len(tokens)
  while start < end and tokens[start].kind in ('quad', ',', ';', ':', '&', '.'):
    start += 1
  while end > start and tokens[end - 1].kind in ('quad', ',', ';', '.', 'row', '&'):
    end -= 1
  return tokens[start:end]


def unwrap(tokens: list[Token]) -> list[Token]:
  """Tokens without braces that enclose all of them."""
  while len(tokens) > 1 and tokens[0].kind == '{' and matching(tokens) == len(tokens) - 1:
    tokens = trim(tokens[1:-1])
  return tokens


def matching(tokens: list[Token]) -> int | None:
  """The index of the bracket that closes the first token."""
  level = 0
  for k, token in enumerate(tokens):
    what = sign(token)
    if what in OPENING:
      level += 1
    if what in CLOSING:
      level -= 1
    if level == 0:
      return k
  return None


def top_level(tokens: list[Token]) -> list[int]:
  """Positions of the tokens outside all brackets, without the brackets themselves."""
  level = 0
  outside = []
  has_kets = any(token.text == 'rangle' for token in tokens)
  kets = _kets(tokens) if has_kets else ()
  for k, token in enumerate(tokens):
    what = sign(token)
    if what in OPENING or k in kets:
      level += 1
    elif what in CLOSING:
      # The bar of "at x = 0" closes nothing.
      level = max(level - 1, 0)
    elif level == 0:
      outside.append(k)
  return outside


def _kets(tokens: list[Token]) -> set[int]:
  """Positions of the bars that open a ket: the next angle or bar after them is a right angle."""
  kets = set()
  bar = None
  angles = 0
  for k, token in enumerate(tokens):
    what = sign(token)
    if what == '\\langle':
      angles += 1
      bar = None
    elif what in ('|', 'open|', 'close|'):
      bar = None if angles else k
    elif what == '\\rangle':
      if bar is not None and not angles:
        kets.add(bar)
      angles = max(angles - 1, 0)
      bar = None
  return kets


def split_at(tokens: list[Token], signs: frozenset[str] | set[str]) -> tuple[list[list[Token]], list[str]]:
  """(the pieces between the top-level tokens with these signs, those signs)."""
  cuts = [k for k in top_level(tokens) if sign(tokens[k]) in signs]
  edges = [-1, *cuts, len(tokens)]
  pieces = [tokens[a + 1 : b] for a, b in itertools.pairwise(edges)]
  return pieces, [sign(tokens[k]) for k in cuts]


def commas_for_words(tokens: list[Token]) -> list[Token]:
  """The tokens with a comma for each "and" and "or", none after another comma."""
  joined = []
  for token in tokens:
    has_comma = bool(joined) and joined[-1].kind == ','
    if not _is_join(token):
      joined.append(token)
    elif not has_comma:
      joined.append(COMMA)
  return joined


def _is_join(token: Token) -> bool:
  """Whether the token is the word "and" or "or"."""
  word = token.text.strip(' ,')
  return token.kind in WORDS and word.lower() in ('and', 'or')


def is_name(tokens: list[Token]) -> bool:
  """Whether the tokens are one symbol or one function, subscripts, arguments and accents included."""
  kinds = []
  before = None
  for place in top_level(tokens):
    token = tokens[place]
    is_accented = before is not None and before.text in ACCENTS and before.kind == 'command'
    if before != _UNDER and not is_accented:
      kinds.append(token.kind)
    before = token
  symbols = kinds.count('letter') + kinds.count('command')
  return symbols <= 1 and _OF_SUMS.isdisjoint(kinds)


def rounded(tokens: list[Token]) -> list[Token]:
  """The tokens with open intervals ]a, b[ written as (a, b)."""
  tokens = list(tokens)
  k = 0
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
  """The square bracket that ends an interval of two bounds; None if the tokens are no interval."""
  level = commas = 0
  for k in range(start + 1, len(tokens)):
    kind = sign(tokens[k])
    if level == 0 and kind in ('[', ']'):
      is_last = k + 1 == len(tokens) or sign(tokens[k + 1]) in _AFTER_INTERVAL
      if commas == 1 and is_last:
        return k
      return None
    level += (kind in OPENING) - (kind in CLOSING)
    commas += level == 0 and kind in (',', ';')
    if level < 0:
      return None
  return None


def relation(nodes: list[Node], signs: list[str]) -> Node:
  """A relation node in its normal direction, so that it equals its mirror image."""
  nodes, signs = mirrored(nodes, signs)
  return Node('relation', tuple(nodes), tuple(signs))


def mirrored(nodes: list, signs: list[str]) -> tuple[list, list[str]]:
  """Members and signs read from the other side if every sign has a mirror image in normal form."""
  if not all(what in MIRROR for what in signs):
    return nodes, signs
  return nodes[::-1], [MIRROR[what] for what in reversed(signs)]
