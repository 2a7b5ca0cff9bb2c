"""Sets given by a condition, and values given case by case."""

from bench.seed.nodes import Name, Node, ParseError, symbol
from bench.seed.reading.splitting import RELATIONS, relation, split_at, trim
from bench.seed.reading.tokens import Token, label, sign

CASES = frozenset(('cases', 'dcases', 'rcases'))
_BARS = frozenset(('|', 'open|', 'close|', ':'))
_BLANK = Node('symbol', (), Name('·'))


def builder(parser) -> Node | None:
  """The set {element | condition} that opens here; None, with nothing read, if there is no condition."""
  end = _closing(parser.tokens, parser.at)
  if end is None:
    return None
  inside = parser.tokens[parser.at : end]
  bars = [k for k, token in enumerate(inside) if token.kind in _BARS]
  if not bars or bars[0] == 0:
    return None
  element = inside[: bars[0]]
  conditions = inside[bars[0] + 1 :]
  if not any(sign(token) in RELATIONS for token in conditions):
    return None
  parser.at = end + 1
  parts, _ = split_at(element, {'\\in'})
  if len(parts) == 2:  # the domain is a condition like the others
    conditions = [*element, Token(',', ','), *conditions]
  body = condition(parser, conditions)
  return Node('setbuilder', (body, _BLANK, _BLANK, parser.inner(trim(parts[0]))))


def _closing(tokens: list[Token], start: int) -> int | None:
  """The index of the brace that closes the one before `start`."""
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
  words = []
  signs = []
  for token in tokens:
    is_word = token.kind in ('text', 'word')
    if is_word:
      words.append(token)
      if token.text.strip(' ,') in ('and', 'or'):
        signs.append(Token(',', ','))
    elif token.kind != 'quad':
      signs.append(token)
  signs = trim(signs)
  if not signs:
    return Node('symbol', (), Name('condition', label(words)))
  pieces, _ = split_at(signs, {',', ';'})
  if not all(map(trim, pieces)):
    raise ParseError('nothing between two commas')
  nodes = tuple(_relation(parser, trim(piece)) for piece in pieces)
  if len(nodes) == 1:
    return nodes[0]
  return Node('list', nodes, ')')


def _relation(parser, tokens: list[Token]) -> Node:
  members, signs = split_at(tokens, RELATIONS)
  if not all(map(trim, members)):
    raise ParseError('nothing on one side of a relation')
  nodes = [parser.inner(trim(member)) for member in members]
  if signs:
    return relation(nodes, signs)
  return nodes[0]


def cases(parser) -> Node:
  """The rows of an environment that opens here, each a value with its condition or an equation."""
  start = parser.at
  level = 1
  while level:
    if parser.peek() is parser.tokens[-1] and parser.peek().kind != 'end':
      raise ParseError('cases are not closed')
    kind = parser.next().kind
    level += (kind == 'begin') - (kind == 'end')
    if parser.at > len(parser.tokens):
      raise ParseError('cases are not closed')
  inside = parser.tokens[start : parser.at - 1]
  rows, _ = split_at(inside, {'row'})
  filled = [row for row in rows if trim(row)]
  if not filled:
    raise ParseError('cases without a row')
  return Node('cases', tuple(_case(parser, row) for row in filled))


def _case(parser, row: list[Token]) -> Node:
  cells, _ = split_at(row, {'&'})
  value, *others = cells
  if not any(map(trim, others)):
    return Node('case', (condition(parser, value), symbol('·')))
  when = [token for cell in others for token in cell]
  return Node('case', (parser.inner(trim(value)), condition(parser, when)))
