"""Products: vector products, told by bold letters and arrows; what stays below a slash; numbers that make a list."""

from bench.seed.nodes import ONE, ZERO, Node, mul, words
from bench.seed.reading.tokens import Token, sign

TIMES = frozenset(('*', '\\times', '\\cdot'))
# Commands after a number that are no letters of a product.
_NO_LETTERS = words('pi times cdot pm mp cup cap setminus choose over bmod rangle rfloor rceil to in')


def is_vector(node: Node) -> bool:
  """Bold or arrow symbols, their sums and multiples, cross products and curls."""
  if node.head == 'symbol':
    return 'vec' in node.value.marks
  if node.head not in ('add', 'mul'):
    return node.head in ('cross', 'curl')
  vectors = sum(map(is_vector, node.args))
  if node.head == 'mul':
    return vectors == 1
  return vectors > 0


def _has_direction(node: Node) -> bool:
  """Whether a node is a vector or may be one: a letter with a hat."""
  has_hat = node.head == 'symbol' and 'hat' in node.value.marks
  return has_hat or is_vector(node)


def times(operator: str, a: Node, b: Node) -> Node:
  """A product written with a sign: cross or dot between two vectors, ordinary otherwise."""
  have_directions = _has_direction(a) and _has_direction(b)
  if not have_directions:
    return mul(a, b)
  if operator == '\\times':
    return Node('cross', (a, b))
  has_vector = is_vector(a) or is_vector(b)
  if operator == '\\cdot' and has_vector:
    return Node('dot', (a, b))
  return mul(a, b)


def is_unit(node: Node) -> bool:
  """Whether a node is a unit, a power of one or a product of such."""
  if node.head == 'mul':
    return all(map(is_unit, node.args))
  if node.head == 'pow':
    return is_unit(node.args[0])
  return node.head == 'unit'


def _is_negative_power(node: Node) -> bool:
  """Whether a node is something to a negative number."""
  return node.head == 'pow' and node.args[1].head == 'number' and node.args[1].value < 0


def divisor(parser, left: Node) -> Node:
  """The operand after a slash: a number under a number is a coefficient, units joined by dots stay below."""
  if left.head == 'number' and _coefficient_ahead(parser):
    node = parser.factor()
    parser.tokens = [*parser.tokens[: parser.at], Token('*', '*'), *parser.tokens[parser.at :]]
    return node
  node = parser.operand()
  while is_unit(node) and sign(parser.peek()) in TIMES:
    factor = _next_unit(parser)
    if factor is None:
      break
    node = mul(node, factor)
  return node


def _coefficient_ahead(parser) -> bool:
  """Whether a bare number and then letters follow, as in 3/2 k_B T; 1/4π keeps its π below."""
  after = parser.peek(1)
  letters = after.kind in ('letter', 'command', 'word', 'run') and after.text not in _NO_LETTERS
  return parser.peek().kind == 'number' and letters


def _next_unit(parser) -> Node | None:
  """The unit after a dot; None, with nothing read, for anything else or a unit to a negative power."""
  start = parser.at
  parser.next()
  factor = None
  if parser.operand_ahead(first=True):
    factor = parser.factor()
  if factor is None or not is_unit(factor) or _is_negative_power(factor):
    parser.at = start
    return None
  return factor


def continues_list(parser, factors: list[Node]) -> bool:
  """Whether numbers alone follow each other with blanks between, as in 1 2 3, which is no product."""
  before = parser.peek(-1)
  ahead = parser.peek()
  are_digits = before.kind == ahead.kind == 'number'
  heads = {factor.head for factor in factors}
  return are_digits and heads == {'number'}


def are_multiplicities(factors: list[Node]) -> bool:
  """Whether factors are values with how often they occur, 0^2 1^4: no product has a power of 0 or 1 written out."""
  if len(factors) < 2:
    return False
  if not all(map(_is_number_power, factors)):
    return False
  values = {factor.args[0] for factor in factors}
  return not values.isdisjoint((ZERO, ONE))


def _is_number_power(node: Node) -> bool:
  heads = {part.head for part in node.args}
  return node.head == 'pow' and heads == {'number'}


def listed(factors: list[Node]) -> Node:
  """Numbers as a list; a power is a pair of the value and its count."""
  entries = []
  for factor in factors:
    if factor.head == 'pow':
      factor = Node('list', factor.args, '^')
    entries.append(factor)
  return Node('list', tuple(entries), ')')
