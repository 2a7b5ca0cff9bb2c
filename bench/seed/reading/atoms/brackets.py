"""Bracketed atoms: groups, sets, bars, kets, means, matrices."""

from bench.seed.nodes import Name, Node, ParseError, Unsupported, divide, words
from bench.seed.reading import sets
from bench.seed.reading.atoms.symbols import prescript, scripts
from bench.seed.reading.tokens import Token, label, sign

_MATRICES = words('matrix pmatrix bmatrix Bmatrix smallmatrix array vmatrix Vmatrix psmallmatrix bsmallmatrix')


def group(parser, closing: str, head: str = 'list') -> Node:
  """A bracketed list, or what is inside if that is one part. Raises ParseError for brackets that do not match."""
  opening = parser.next().kind
  other = {'(': ']', '[': ')'}.get(opening, closing)
  parts = parser.group(closing, other)
  if len(parts) == 2 and parser.tokens[parser.at - 1].kind != closing:
    return Node('list', tuple(parts), opening + other)
  if parser.tokens[parser.at - 1].kind != sign(Token(closing, closing)):
    raise ParseError(f'{closing!r} expected, {other!r} found')
  if len(parts) == 1:
    return parts[0]
  return Node(head, tuple(parts), closing)


def set_(parser) -> Node:
  """A set by its elements or by a condition, a group in curly brackets, or cases after a lone bracket."""
  start = parser.at
  parser.next()
  if sets.open_brace(parser):
    name = parser.next().text
    if name == 'array' and parser.ahead('{'):
      parser.skip_group()
    return sets.cases(parser)
  by_condition = sets.builder(parser)
  if by_condition is not None:
    return by_condition
  parser.at = start
  return group(parser, '\\}')


def rounding(parser, head: str) -> Node:
  """Floor or ceiling."""
  parser.next()
  (inner,) = parser.group('\\rfloor' if head == 'floor' else '\\rceil')
  return Node(head, (inner,))


def braces(parser) -> Node:
  r"""A LaTeX group, `\choose` and `\over` included; an empty one is the place of scripts before a symbol."""
  parser.next()
  if parser.accept('}'):
    if parser.ahead('^', '_'):
      return prescript(parser)
    return parser.postfix(parser.atom())
  bars = parser.bars
  parser.bars = 0
  inner = parser.sum()
  if parser.accept('\\choose'):
    inner = Node('binomial', (inner, parser.sum()))
  elif parser.accept('\\over'):
    inner = divide(inner, parser.sum())
  parser.expect('}')
  parser.bars = bars
  if inner.head == 'symbol' and parser.ahead('_', "'"):
    return scripts(parser, inner.value)
  return inner


def bar(parser) -> Node:
  """An absolute value, the determinant of a matrix in bars, or a ket."""
  parser.next()
  end = _ket_end(parser)
  if end is not None:
    state = label(parser.tokens[parser.at : end])
    parser.at = end + 1
    return Node('ket', (), state)
  parser.bars += 1
  inner = parser.sum()
  parser.bars -= 1
  parser.expect('close|', '|')
  return Node('det' if inner.head == 'matrix' else 'abs', (inner,))


def _ket_end(parser) -> int | None:
  """The end of a ket that opens here: a right angle before any other bar or closing sign; None if it is no ket."""
  level = 0
  for k in range(parser.at, min(parser.at + 40, len(parser.tokens))):
    what = sign(parser.tokens[k])
    if level == 0 and what in ('|', ')', ']', '}', 'close|'):
      return None
    if what == '\\rangle':
      return k
    level += (what in ('{', '(')) - (what in ('}', ')'))
  return None


def angle(parser) -> Node:
  """A mean or a matrix element between angles, or a bra."""
  parser.next()
  parts: list[list[Token]] = [[]]
  inside = 0
  while inside or not parser.ahead('\\rangle'):
    if parser.peek().kind == 'end':
      if len(parts) == 2 and not parts[1]:
        return Node('bra', (), label(parts[0]))
      raise ParseError('an angle bracket is not closed')
    token = parser.next()
    inside += (sign(token) in ('\\langle', '{')) - (sign(token) in ('\\rangle', '}'))
    if token.kind in ('|', 'open|', 'close|') and not inside:
      parts.append([])
    else:
      parts[-1].append(token)
  parser.next()
  if len(parts) == 1:
    return Node('mean', (_part(parser, parts[0]),))
  bra, *operators, ket = parts
  middle = [_part(parser, tokens) for tokens in operators]
  return Node('mean', (_state(bra), *middle, _state(ket)))


def _state(tokens: list[Token]) -> Node:
  return Node('symbol', (), Name('state', label(tokens)))


def _part(parser, tokens: list[Token]) -> Node:
  if any(token.kind == ',' for token in tokens):
    return _state(tokens)
  return parser.inner(tokens)


def environment(parser) -> Node:
  """A matrix, or cases. Raises Unsupported for another environment."""
  name = parser.next().text
  if name in sets.CASES:
    return sets.cases(parser)
  if name not in _MATRICES:
    raise Unsupported(f'environment {name!r}')
  if name == 'array' and parser.ahead('{'):
    parser.skip_group()
  rows = [[]]
  while not parser.ahead('end'):
    rows[-1].append(parser.sum())
    if parser.accept('row'):
      if parser.ahead('end'):
        break
      rows.append([])
    elif not parser.accept('&') and not parser.ahead('end'):
      raise ParseError(f'{parser.peek().text!r} in a matrix')
  parser.next()
  if rows == [[]]:
    raise ParseError('an empty matrix')
  width = len(rows[0])
  if any(len(row) != width for row in rows):
    raise ParseError('the rows of a matrix differ in length')
  cells = tuple(cell for row in rows for cell in row)
  matrix = Node('matrix', cells, (len(rows), width))
  if name in ('vmatrix', 'Vmatrix'):
    return Node('det', (matrix,))
  return matrix
