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
RELATIONS = EQUALS | ORDER | {'\\neq', '\\in', '\\to', '\\gets'}
OPENING = frozenset(('(', '[', '{', '\\{', 'open|', 'begin', '\\langle', '\\lfloor', '\\lceil'))
CLOSING = frozenset((')', ']', '}', '\\}', 'close|', 'end', '\\rangle', '\\rfloor', '\\rceil'))
_AFTER_INTERVAL = frozenset(('\\cup', '\\cap', '\\setminus', ',', ';', '.', 'quad', 'text', 'word', '\\}', '}'))

COMMA = Token(',', ',')
WORDS = frozenset(('text', 'word'))  # kinds of tokens
_BARS = frozenset(('|', 'open|', 'close|'))
_UNDER = Token('_', '_')
_NOTHING = Token('', '')
_BEFORE = frozenset(('quad', ',', ';', ':', '&', '.'))  # what may stand before an answer, and after it
_AFTER = frozenset(('quad', ',', ';', '.', 'row', '&'))
_OF_SUMS = frozenset(('number', '^', '+', '-'))  # what no name holds outside its brackets


def trim(tokens: list[Token]) -> list[Token]:
  """Tokens without punctuation and blanks at either end."""
  start = 0
  end = len(tokens)
  while start < end and tokens[start].kind in _BEFORE:
    start += 1
  while start < end and tokens[end - 1].kind in _AFTER:
    end -= 1
  return tokens[start:end]


def unwrap(tokens: list[Token]) -> list[Token]:
  """Tokens without braces that enclose all of them."""
  while _is_braced(tokens):
    tokens = trim(tokens[1:-1])
  return tokens


def _is_braced(tokens: list[Token]) -> bool:
  if len(tokens) < 2 or tokens[0].kind != '{':
    return False
  last = len(tokens) - 1
  return matching(tokens) == last


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
  kets = _kets(tokens)
  for place, token in enumerate(tokens):
    what = sign(token)
    if what in OPENING or place in kets:
      level += 1
    elif what in CLOSING:
      # The bar of "at x = 0" closes nothing.
      level = max(level - 1, 0)
    elif level == 0:
      outside.append(place)
  return outside


def _kets(tokens: list[Token]) -> set[int]:
  """Positions of the bars that open a ket: the next angle or bar after them is a right angle."""
  kets = set()
  bar = None  # the last one outside all averages
  angles = 0
  for place, token in enumerate(tokens):
    what = sign(token)
    if what == '\\langle':
      angles += 1
      bar = None
    elif what in _BARS:
      bar = place
      if angles:
        bar = None
    elif what == '\\rangle':
      if bar is not None:
        kets.add(bar)
      angles = max(angles - 1, 0)
      bar = None
  return kets


def split_at(tokens: list[Token], signs: frozenset[str] | set[str]) -> tuple[list[list[Token]], list[str]]:
  """(the pieces between the top-level tokens with these signs, those signs)."""
  cuts = [place for place in top_level(tokens) if sign(tokens[place]) in signs]
  found = [sign(tokens[place]) for place in cuts]
  return between(tokens, cuts), found


def between(tokens: list[Token], cuts: list[int]) -> list[list[Token]]:
  """The tokens before, between and after the places of `cuts`."""
  edges = [-1, *cuts, len(tokens)]
  return [tokens[start + 1 : end] for start, end in itertools.pairwise(edges)]


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


def without_words(tokens: list[Token]) -> list[Token]:
  """The tokens that are no words."""
  return [token for token in tokens if token.kind not in WORDS]


def _is_join(token: Token) -> bool:
  """Whether the token is the word "and" or "or"."""
  word = token.text.strip(' ,')
  return token.kind in WORDS and word.lower() in ('and', 'or')


def is_name(tokens: list[Token]) -> bool:
  """Whether the tokens are one symbol or one function, subscripts, arguments and accents included."""
  kinds = []
  before = _NOTHING
  for place in top_level(tokens):
    token = tokens[place]
    is_accented = before.kind == 'command' and before.text in ACCENTS
    is_part = is_accented or before == _UNDER
    if not is_part:
      kinds.append(token.kind)
    before = token
  symbols = [kind for kind in kinds if kind in ('letter', 'command')]
  return len(symbols) <= 1 and _OF_SUMS.isdisjoint(kinds)


def rounded(tokens: list[Token]) -> list[Token]:
  """The tokens with open intervals ]a, b[ written as (a, b)."""
  tokens = list(tokens)
  place = 0
  while place < len(tokens):
    token = tokens[place]
    if token.kind in '[]':
      place = _rounded_from(tokens, place)
    place += 1
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
  level = 0
  commas = 0
  for place in range(start + 1, len(tokens)):
    kind = sign(tokens[place])
    if level == 0 and kind in ('[', ']'):
      ends = commas == 1 and _follows_interval(tokens[place + 1 :])
      return place if ends else None
    if kind in OPENING:
      level += 1
    elif kind in CLOSING:
      level -= 1
    elif level == 0 and kind in (',', ';'):
      commas += 1
    if level < 0:
      return None
  return None


def _follows_interval(rest: list[Token]) -> bool:
  """Whether nothing follows, or what may follow an interval."""
  if not rest:
    return True
  return sign(rest[0]) in _AFTER_INTERVAL


def relation(nodes: list[Node], signs: list[str]) -> Node:
  """A relation node in its normal direction, so that it equals its mirror image."""
  nodes, signs = mirrored(nodes, signs)
  return Node('relation', tuple(nodes), tuple(signs))


def mirrored(nodes: list, signs: list[str]) -> tuple[list, list[str]]:
  """Members and signs read from the other side if every sign has a mirror image in normal form."""
  if not MIRROR.keys() >= set(signs):
    return nodes, signs
  images = [MIRROR[what] for what in reversed(signs)]
  return nodes[::-1], images
