"""Derivatives, integrals, sums, products, limits and nabla: all become nodes and none is carried out."""

from bench.seed.nodes import Name, Node, ParseError, divide, number, symbol
from bench.seed.reading.tokens import Token, label, sign

# d and ∂ are one derivative: in one variable they are the same, and the notation alone cannot tell more.
_KINDS = {'d': 'derivative', '\\partial': 'derivative', '\\delta': 'variation', '\\Delta': 'difference'}
_MAX_VARIABLES, _NESTING = 40, frozenset(('frac', 'sqrt', 'sum', 'prod', 'int', 'binom', 'lim', '('))
_BLANK = Node('symbol', (), Name('·'))


def _mark(token: Token) -> str:
  return token.text if token.kind == 'letter' else sign(token)


def is_operator(node: Node) -> bool:
  """Whether the node is a derivative operator."""
  return node.head == 'operator'


def operate(parser, operator: Node) -> Node:
  """An operator applied to the factors that follow it; alone it stays an operator on a blank."""
  head, value = operator.value
  operand = parser.chain() if parser.operand_ahead(first=False) else _BLANK
  return Node(head, (operand, *operator.args), value)


def _fraction(parser) -> Node:
  top, bottom = parser.piece(), parser.piece()
  derivative = _derivative(parser, top, bottom)
  if derivative:
    return derivative
  return divide(parser.inner(top, differentials=True), parser.inner(bottom))


def _derivative(parser, top: list[Token], bottom: list[Token]) -> Node | None:
  """The derivative a fraction is, if its numerator and its denominator both start with a differential
  sign."""
  if not top or not bottom or _mark(top[0]) not in _KINDS or _mark(bottom[0]) not in _KINDS:
    return None
  head = _KINDS[_mark(top[0])]
  if head != _KINDS[_mark(bottom[0])]:
    return None
  variables = _variables(parser, bottom)
  order, rest = _order(parser, top[1:])
  if not variables or order is None or (head != 'derivative' and not rest):
    return None
  orders = tuple(n for _, n in variables)
  total = sum(orders)
  if order != total and not rest:
    return None
  value = (orders, None if order == total else order)
  args = tuple(v for v, _ in variables)
  if not rest:
    return Node('operator', args, (head, value))
  return Node(head, (parser.inner(rest), *args), value)


def _order(parser, tokens: list[Token]) -> tuple[int | None, list[Token]]:
  """The order written after the first sign of a numerator (1 without one) and the tokens after it."""
  if not tokens or tokens[0].kind != '^':
    return 1, tokens
  child = type(parser)(tokens[1:], parser.reading)
  script = child.script()
  digits = script[0].text if len(script) == 1 and script[0].kind == 'number' else ''
  order = int(digits) if digits.isdigit() and len(digits) < 3 else None
  return order, tokens[1 + child.at :]


def _variables(parser, tokens: list[Token]) -> list[tuple[Node, int]] | None:
  """The variables of a denominator such as ∂x² ∂y, each with its order; None if it is not one."""
  # Nothing that nests is a variable; reading it here and again as a quotient would take exponential time.
  if len(tokens) > _MAX_VARIABLES or any(t.text in _NESTING for t in tokens):
    return None
  child = type(parser)(tokens, parser.reading)
  child.indices, child.level = {'i'}, parser.level
  found = []
  while child.at < len(tokens):
    if _mark(child.next()) not in _KINDS or child.peek().kind in ('end', '^', '_', 'number', '+', '-', '/'):
      return None
    try:
      node = child.postfix(child.atom())
    except ParseError:
      return None
    order = 1
    if node.head == 'pow' and node.args[1].head == 'number':
      node, order = node.args[0], node.args[1].value
    if order != int(order) or not 0 < order < 100:
      return None
    found.append((node, int(order)))
  return found


def slash_derivative(parser, left: Node) -> Node | None:
  """dE/dk written with a slash: `left` ends in a differential sign and a quantity, the same sign follows."""
  factors = left.args if left.head == 'mul' else (left,)
  signs = (symbol('d'), symbol('\\partial'))
  marks = [k for k, f in enumerate(factors[:-1]) if f in signs or (f.head == 'pow' and f.args[0] in signs)]
  named = parser.peek(1).kind in ('letter', 'command')
  if not marks or not named or _mark(parser.peek()) not in ('d', '\\partial'):
    return None
  parser.next()
  variable = parser.postfix(parser.atom())
  start = marks[-1]
  order = factors[start].args[1] if factors[start].head == 'pow' else number(1)
  if order != number(1):
    if variable.head != 'pow' or variable.args[1] != order or order not in map(number, range(2, 10)):
      raise ParseError('a derivative of unclear order')
    variable = variable.args[0]
  operand = factors[start + 1 :]
  node = Node(
    'derivative', (operand[0] if len(operand) == 1 else Node('mul', operand), variable), ((int(order.value),), None)
  )
  return Node('mul', (*factors[:start], node)) if start else node


def take_differential(parser) -> bool:
  """Reads `dx` or `d^3k` into the open integral; False if none is here."""
  if _mark(parser.peek()) != 'd':
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
  if token.kind not in ('letter', '{') and not (token.kind == 'command' and token.text not in ('frac', 'sqrt')):
    parser.at = start
    return False
  open_integrals, parser.integrals = parser.integrals, []
  variable = parser.atom()
  parser.integrals = open_integrals
  parser.integrals[-1].append(Node('differential', (variable,), order))
  return True


def _differential_ahead(parser) -> bool:
  """Whether the terms that follow hold the differential of the open integral, outside brackets and other
  integrals."""
  level = 0
  for k in range(parser.at, len(parser.tokens) - 1):
    what, after = sign(parser.tokens[k]), parser.tokens[k + 1].kind
    level += (what in ('{', '(', '[')) - (what in ('}', ')', ']'))
    if level < 0 or what in ('=', ',', '\\int', '\\oint', '\\iint', '\\iiint'):
      return False
    if level == 0 and _mark(parser.tokens[k]) == 'd' and after in ('letter', 'command', '^'):
      return True
  return False


def _bounds(parser) -> dict[str, list[Token]]:
  found = {}
  while parser.ahead('_', '^'):
    kind = parser.next().kind
    found[kind] = parser.script()
  return found


def _split_commas(tokens: list[Token]) -> list[list[Token]]:
  """The pieces of a list of indices between its commas."""
  pieces: list[list[Token]] = [[]]
  for token in tokens:
    if token.kind == ',':
      pieces.append([])
    else:
      pieces[-1].append(token)
  return pieces


def _bound(parser, tokens: list[Token] | None) -> Node:
  """A bound as an expression, or as a label where it is a name for a region or absent."""
  if not tokens:
    return _BLANK
  if any(sign(t) in (',', '\\langle') for t in tokens):
    # The order of several indices does not matter, nor do the commas inside a pair of neighbours.
    angled = any(sign(t) == '\\langle' for t in tokens)
    parts = [label(tokens)] if angled else [label(p) for p in _split_commas(tokens)]
    flat = tuple(x for part in sorted(parts) for x in (*part, ','))
    return Node('symbol', (), Name('region', tuple(x for x in flat if not angled or x != ',')))
  try:
    return parser.inner(tokens)
  except ParseError:
    return Node('symbol', (), Name('region', label(tokens)))


def _integral(name: str):
  def read(parser) -> Node:
    bounds = _bounds(parser)
    lower, upper = _bound(parser, bounds.get('_')), _bound(parser, bounds.get('^'))
    parser.integrals.append([])
    terms = [parser.product()]
    while not parser.integrals[-1] and parser.ahead('+', '-') and _differential_ahead(parser):
      terms.append(parser.signed())
    variables = parser.integrals.pop()
    body = terms[0] if len(terms) == 1 else Node('add', tuple(terms))
    orders = tuple(v.value for v in variables)
    return Node('integral', (body, lower, upper, *(v.args[0] for v in variables)), (name, orders))

  return read


def _indexed(head: str):
  def read(parser) -> Node:
    bounds = _bounds(parser)
    lower = bounds.get('_', [])
    split = next((k for k, t in enumerate(lower) if t.kind == '='), None)
    index = lower if split is None else lower[:split]
    if len(index) == 1 and index[0].kind == 'letter':
      parser.indices = parser.indices | {index[0].text}
    start = _BLANK if split is None else _bound(parser, lower[split + 1 :])
    body = parser.product()
    return Node(head, (body, start, _bound(parser, bounds.get('^')), _bound(parser, index)))

  return read


def _limit(parser) -> Node:
  lower = _bounds(parser).get('_', [])
  arrow = next((k for k, t in enumerate(lower) if sign(t) == '\\to'), None)
  if arrow is None:
    raise ParseError('a limit without an arrow')
  target = lower[arrow + 1 :]
  side = ''
  if len(target) > 2 and target[-2].kind == '^' and target[-1].kind in '+-':
    side, target = target[-1].kind, target[:-2]
  variable, to = _bound(parser, lower[:arrow]), _bound(parser, target)
  return Node('limit', (parser.product(), to, _BLANK, variable), side)


def _partial(parser) -> Node:
  """∂_x is an operator; a bare ∂ is a symbol that a slash may turn into a derivative."""
  order, variable = 1, None
  while parser.ahead('_', '^'):
    if parser.next().kind == '_':
      variable = _bound(parser, parser.script())
    else:
      order, _ = _order(parser, [Token('^', '^'), *parser.script()])
  if variable is None:
    return symbol('\\partial') if order == 1 else Node('pow', (symbol('\\partial'), number(order or 1)))
  return Node('operator', (variable,), ('derivative', ((order or 1,), None)))


def _nabla(parser) -> Node:
  value, head = (), 'nabla'
  while parser.ahead('_', '^'):
    kind = parser.next().kind
    text = parser.label()
    if kind == '^' and text == ('2',):
      head = 'laplacian'
    else:
      value += (kind, *text)
  if head == 'nabla' and parser.ahead('\\cdot', '\\times'):
    head = 'div' if parser.next().text == 'cdot' else 'curl'
  return Node('operator', (), (head, value))


def _physics_derivative(parser) -> Node:
  r"""\dv{f}{x}, \pdv{f}{x}, \dv{x} of the physics package."""
  order = parser.group(']')[0] if parser.accept('[') else number(1)
  if order.head != 'number' or not 0 < order.value < 100 or order.value != int(order.value):
    raise ParseError('the order of a derivative')
  first = parser.argument()
  value = ((int(order.value),), None)
  if parser.ahead('{'):
    return Node('derivative', (first, parser.argument()), value)
  return Node('operator', (first,), ('derivative', value))


COMMANDS = {
  'frac': _fraction,
  'sum': _indexed('sum'),
  'prod': _indexed('product'),
  'bigcup': _indexed('bigunion'),
  'bigcap': _indexed('bigintersection'),
  'lim': _limit,
  'partial': _partial,
  'nabla': _nabla,
  'dv': _physics_derivative,
  'pdv': _physics_derivative,
} | {i: _integral(i) for i in ('int', 'iint', 'iiint', 'oint')}
