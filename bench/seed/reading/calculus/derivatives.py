"""Derivatives as fractions, with a slash, as ∂_x and ∇, and in the physics package's commands."""

from bench.seed.nodes import Node, ParseError, divide, number, symbol
from bench.seed.reading.calculus.bounds import BLANK, bound
from bench.seed.reading.tokens import Token, sign

# d and ∂ are one derivative: in one variable they are equal, and notation alone does not tell the variables.
_KINDS = {'d': 'derivative', '\\partial': 'derivative', '\\delta': 'variation', '\\Delta': 'difference'}
_MAX_VARIABLES = 40
_NESTING = frozenset(('frac', 'sqrt', 'sum', 'prod', 'int', 'binom', 'lim', '('))
_OPERATOR_SIGNS = (symbol('d'), symbol('\\partial'))


def differential_sign(token: Token) -> str:
  r"""The sign that tells a differential, such as `d` or `\partial`, upright or not."""
  if token.kind == 'letter':
    return token.text
  return sign(token)


def is_operator(node: Node) -> bool:
  """Whether the node is a derivative operator."""
  return node.head == 'operator'


def operate(parser, operator: Node) -> Node:
  """An operator applied to the factors that follow it, or to a blank if there are none."""
  head, value = operator.value
  operand = BLANK
  if parser.operand_ahead(first=False):
    operand = parser.chain()
  return Node(head, (operand, *operator.args), value)


def fraction(parser) -> Node:
  """A derivative that is written as a fraction, or else the quotient."""
  top = parser.piece()
  bottom = parser.piece()
  derivative = _derivative(parser, top, bottom)
  if derivative:
    return derivative
  return divide(parser.inner(top, differentials=True), parser.inner(bottom))


def _derivative(parser, top: list[Token], bottom: list[Token]) -> Node | None:
  """The derivative that a fraction means if numerator and denominator start with the same kind of differential."""
  head = None
  if top:
    head = _KINDS.get(differential_sign(top[0]))
  if head is None or not bottom or _KINDS.get(differential_sign(bottom[0])) != head:
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
  if differential_sign(parser.next()) not in _KINDS or parser.peek().kind in ('end', '^', '_', 'number', '+', '-', '/'):
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
  if not marks or not is_named or differential_sign(parser.peek()) not in ('d', '\\partial'):
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
  base = node
  if node.head == 'pow':
    base = node.args[0]
  return base in _OPERATOR_SIGNS


def partial(parser) -> Node:
  """∂_x is an operator; a bare ∂ is a symbol that a slash may turn into a derivative."""
  order = 1
  variable = None
  while parser.ahead('_', '^'):
    if parser.next().kind == '_':
      variable = bound(parser, parser.script())
    else:
      order, _ = _order(parser, [Token('^', '^'), *parser.script()])
  if variable is not None:
    return Node('operator', (variable,), ('derivative', ((order or 1,), None)))
  if order == 1:
    return symbol('\\partial')
  return Node('pow', (symbol('\\partial'), number(order or 1)))


def nabla(parser) -> Node:
  """Nabla with its index, or the Laplacian."""
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


def physics_derivative(parser) -> Node:
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
