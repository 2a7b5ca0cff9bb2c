"""Derivatives, integrals, sums, products, limits and nabla: they become nodes; none is evaluated."""

import itertools

from bench.seed.nodes import Name, Node, ParseError, divide, number, symbol
from bench.seed.reading.tokens import Token, label, sign

# d and ∂ are one derivative: in one variable they are equal, and notation alone does not tell the variables.
_KINDS = {'d': 'derivative', '\\partial': 'derivative', '\\delta': 'variation', '\\Delta': 'difference'}
_MAX_VARIABLES = 40
_NESTING = frozenset(('frac', 'sqrt', 'sum', 'prod', 'int', 'binom', 'lim', '('))
_OPERATOR_SIGNS = (symbol('d'), symbol('\\partial'))
_INTEGRALS = ('int', 'iint', 'iiint', 'oint')
_BLANK = Node('symbol', (), Name('·'))


def _mark(token: Token) -> str:
  return token.text if token.kind == 'letter' else sign(token)


def is_operator(node: Node) -> bool:
  """Whether the node is a derivative operator."""
  return node.head == 'operator'


def operate(parser, operator: Node) -> Node:
  """An operator applied to the factors that follow it, or to a blank if there are none."""
  head, value = operator.value
  operand = parser.chain() if parser.operand_ahead(first=False) else _BLANK
  return Node(head, (operand, *operator.args), value)


def _fraction(parser) -> Node:
  top = parser.piece()
  bottom = parser.piece()
  derivative = _derivative(parser, top, bottom)
  if derivative:
    return derivative
  return divide(parser.inner(top, differentials=True), parser.inner(bottom))


def _derivative(parser, top: list[Token], bottom: list[Token]) -> Node | None:
  """The derivative that a fraction means if numerator and denominator start with the same kind of differential."""
  head = _KINDS.get(_mark(top[0])) if top else None
  if head is None or not bottom or _KINDS.get(_mark(bottom[0])) != head:
    return None
  variables = _variables(parser, bottom)
  order, rest = _order(parser, top[1:])
  if not variables or order is None:
    return None
  orders = tuple(n for _, n in variables)
  total = sum(orders)
  is_operator_allowed = head == 'derivative' and order == total
  if not rest and not is_operator_allowed:
    return None
  value = (orders, None if order == total else order)
  args = tuple(variable for variable, _ in variables)
  if not rest:
    return Node('operator', args, (head, value))
  return Node(head, (parser.inner(rest), *args), value)


def _order(parser, tokens: list[Token]) -> tuple[int | None, list[Token]]:
  """(order after the first sign of a numerator, the tokens after it): 1 without an order, None if it is no number."""
  if not tokens or tokens[0].kind != '^':
    return 1, tokens
  child = type(parser)(tokens[1:], parser.reading)
  script = child.script()
  rest = tokens[1 + child.at :]
  if len(script) != 1 or script[0].kind != 'number':
    return None, rest
  digits = script[0].text
  is_order = digits.isdigit() and len(digits) < 3
  return (int(digits) if is_order else None), rest


def _variables(parser, tokens: list[Token]) -> list[tuple[Node, int]] | None:
  """The variables of a denominator such as ∂x² ∂y, each with its order; None if it is not one."""
  # A variable never nests, and reading nested tokens here and again as a quotient would take exponential time.
  if len(tokens) > _MAX_VARIABLES or any(token.text in _NESTING for token in tokens):
    return None
  child = type(parser)(tokens, parser.reading)
  child.indices = {'i'}
  child.level = parser.level
  variables = []
  while child.at < len(tokens):
    variable = _variable(child)
    if variable is None:
      return None
    variables.append(variable)
  return variables


def _variable(parser) -> tuple[Node, int] | None:
  """The next variable of a denominator with its order; None if the tokens are none."""
  if _mark(parser.next()) not in _KINDS or parser.peek().kind in ('end', '^', '_', 'number', '+', '-', '/'):
    return None
  try:
    node = parser.postfix(parser.atom())
  except ParseError:
    return None
  if node.head != 'pow' or node.args[1].head != 'number':
    return node, 1
  base, exponent = node.args
  order = exponent.value
  if order != int(order) or not 0 < order < 100:
    return None
  return base, int(order)


def slash_derivative(parser, left: Node) -> Node | None:
  """dE/dk with a slash: `left` ends in a differential sign and a quantity, and the same sign follows."""
  factors = left.args if left.head == 'mul' else (left,)
  marks = [k for k, factor in enumerate(factors[:-1]) if _is_operator_sign(factor)]
  is_named = parser.peek(1).kind in ('letter', 'command')
  if not marks or not is_named or _mark(parser.peek()) not in ('d', '\\partial'):
    return None
  parser.next()
  variable = parser.postfix(parser.atom())
  start = marks[-1]
  order = factors[start].args[1] if factors[start].head == 'pow' else number(1)
  if order != number(1):
    is_clear = variable.head == 'pow' and variable.args[1] == order and order in map(number, range(2, 10))
    if not is_clear:
      raise ParseError('a derivative of unclear order')
    variable = variable.args[0]
  operands = factors[start + 1 :]
  operand = operands[0] if len(operands) == 1 else Node('mul', operands)
  derivative = Node('derivative', (operand, variable), ((int(order.value),), None))
  if start == 0:
    return derivative
  return Node('mul', (*factors[:start], derivative))


def _is_operator_sign(node: Node) -> bool:
  """Whether the node is d or ∂, or a power of one."""
  base = node.args[0] if node.head == 'pow' else node
  return base in _OPERATOR_SIGNS


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
    if level == 0 and _mark(token) == 'd' and after.kind in ('letter', 'command', '^'):
      return True
  return False


def _bounds(parser) -> dict[str, list[Token]]:
  """The scripts that follow, by '_' and '^'."""
  bounds = {}
  while parser.ahead('_', '^'):
    kind = parser.next().kind
    bounds[kind] = parser.script()
  return bounds


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
  """A bound as an expression, or as a label if it names a region or is absent."""
  if not tokens:
    return _BLANK
  signs = {sign(token) for token in tokens}
  if signs & {',', '\\langle'}:
    return Node('symbol', (), Name('region', _indices(tokens, is_pair='\\langle' in signs)))
  try:
    return parser.inner(tokens)
  except ParseError:
    return Node('symbol', (), Name('region', label(tokens)))


def _indices(tokens: list[Token], *, is_pair: bool) -> tuple[str, ...]:
  """Several indices as a label: their order does not matter, nor do the commas in a pair ⟨i,j⟩ of neighbours."""
  if is_pair:
    return tuple(part for part in label(tokens) if part != ',')
  labels = sorted(label(piece) for piece in _split_commas(tokens))
  return tuple(part for index in labels for part in (*index, ','))


def _integral(name: str):
  """The reader of one integral command."""

  def read(parser) -> Node:
    bounds = _bounds(parser)
    lower = _bound(parser, bounds.get('_'))
    upper = _bound(parser, bounds.get('^'))
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


def _indexed(head: str):
  """The reader of one command with an index, such as a sum."""

  def read(parser) -> Node:
    bounds = _bounds(parser)
    index, first = _cut(bounds.get('_', []), '=')
    if len(index) == 1 and index[0].kind == 'letter':
      parser.indices = parser.indices | {index[0].text}
    start = _bound(parser, first)
    body = parser.product()
    return Node(head, (body, start, _bound(parser, bounds.get('^')), _bound(parser, index)))

  return read


def _limit(parser) -> Node:
  lower = _bounds(parser).get('_', [])
  variable, target = _cut(lower, '\\to')
  if target is None:
    raise ParseError('a limit without an arrow')
  side = ''
  if len(target) > 2 and target[-2].kind == '^' and target[-1].kind in '+-':
    side = target[-1].kind
    target = target[:-2]
  variable = _bound(parser, variable)
  to = _bound(parser, target)
  return Node('limit', (parser.product(), to, _BLANK, variable), side)


def _partial(parser) -> Node:
  """∂_x is an operator; a bare ∂ is a symbol that a slash may turn into a derivative."""
  order = 1
  variable = None
  while parser.ahead('_', '^'):
    if parser.next().kind == '_':
      variable = _bound(parser, parser.script())
    else:
      order, _ = _order(parser, [Token('^', '^'), *parser.script()])
  if variable is not None:
    return Node('operator', (variable,), ('derivative', ((order or 1,), None)))
  if order == 1:
    return symbol('\\partial')
  return Node('pow', (symbol('\\partial'), number(order or 1)))


def _nabla(parser) -> Node:
  value = ()
  head = 'nabla'
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
  is_order = order.head == 'number' and 0 < order.value < 100 and order.value == int(order.value)
  if not is_order:
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
} | {name: _integral(name) for name in _INTEGRALS}
