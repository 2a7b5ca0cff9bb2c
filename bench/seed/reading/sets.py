"""Sets given by a condition, and values given case by case."""

from bench.seed.nodes import Name, Node, ParseError, symbol
from bench.seed.reading.splitting import RELATIONS, relation, split_at, trim
from bench.seed.reading.tokens import Token, label, sign

CASES = frozenset(('cases', 'dcases', 'rcases'))
_BARS = frozenset(('|', 'open|', 'close|', ':'))
_BLANK = Node('symbol', (), Name('·'))


def builder(parser) -> Node | None:
  """The set {element | condition} that opened here; None, with nothing read, if there is no condition."""
  end = _closing(parser.tokens, parser.at)
  if end is None:
    return None
  inside = parser.tokens[parser.at : end]
  bar = next((k for k, t in enumerate(inside) if t.kind in _BARS), None)
  if not bar or not any(sign(t) in RELATIONS for t in inside[bar:]):
    return None
  parser.at = end + 1
  parts, _ = split_at(inside[:bar], {'\\in'})
  domain = [*inside[:bar], Token(',', ',')] if len(parts) == 2 else []
  body = condition(parser, [*domain, *inside[bar + 1 :]])
  return Node('setbuilder', (body, _BLANK, _BLANK, parser.inner(trim(parts[0]))))


def _closing(tokens: list[Token], start: int) -> int | None:
  """The brace that closes the one before `start`."""
  level = 1
  for k in range(start, len(tokens)):
    level += (sign(tokens[k]) == '\\{') - (sign(tokens[k]) == '\\}')
    if level == 0:
      return k
  return None


def open_brace(parser) -> bool:
  """Whether the brace before is never closed and an environment follows: cases in the form of an array."""
  return parser.peek().kind == 'begin' and _closing(parser.tokens, parser.at) is None


def condition(parser, tokens: list[Token]) -> Node:
  """One relation, a list of them, or words such as "otherwise"."""
  words = [t for t in tokens if t.kind in ('text', 'word')]
  joined = [Token(',', ',') if t in words and t.text.strip(' ,') in ('and', 'or') else t for t in tokens]
  signs = [t for t in joined if t not in words and t.kind != 'quad']
  if not trim(signs):
    return Node('symbol', (), Name('condition', label(words)))
  pieces = [trim(piece) for piece in split_at(trim(signs), {',', ';'})[0]]
  if not all(pieces):
    raise ParseError('nothing between two commas')
  nodes = tuple(_relation(parser, piece) for piece in pieces)
  return nodes[0] if len(nodes) == 1 else Node('list', nodes, ')')


def _relation(parser, tokens: list[Token]) -> Node:
  members, signs = split_at(tokens, RELATIONS)
  if not all(map(trim, members)):
    raise ParseError('nothing on one side of a relation')
  nodes = [parser.inner(trim(m)) for m in members]
  return relation(nodes, signs) if signs else nodes[0]


def cases(parser) -> Node:
  """The rows of an environment that opened here, each a value with its condition or an equation."""
  start, level = parser.at, 1
  while level:
    if parser.peek() is parser.tokens[-1] and parser.peek().kind != 'end':
      raise ParseError('cases are not closed')
    kind = parser.next().kind
    level += (kind == 'begin') - (kind == 'end')
    if parser.at > len(parser.tokens):
      raise ParseError('cases are not closed')
  rows = [row for row in split_at(parser.tokens[start : parser.at - 1], {'row'})[0] if trim(row)]
  if not rows:
    raise ParseError('cases without a row')
  return Node('cases', tuple(_case(parser, row) for row in rows))


def _case(parser, row: list[Token]) -> Node:
  value, *others = split_at(row, {'&'})[0]
  if not any(map(trim, others)):
    return Node('case', (condition(parser, value), symbol('·')))
  when = [token for cell in others for token in cell]
  return Node('case', (parser.inner(trim(value)), condition(parser, when)))
