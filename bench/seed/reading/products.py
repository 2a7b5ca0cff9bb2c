"""Which factors make a vector product, told by bold letters and arrows, and which numbers make a list instead."""

from bench.seed.nodes import ONE, ZERO, Node, mul


def is_vector(node: Node) -> bool:
  """Bold or arrow symbols, their sums and multiples, cross products and curls."""
  if node.head == 'symbol':
    return 'vec' in node.value.marks
  if node.head == 'add':
    return any(map(is_vector, node.args))
  if node.head == 'mul':
    return sum(map(is_vector, node.args)) == 1
  return node.head in ('cross', 'curl')


def _has_direction(node: Node) -> bool:
  """Whether a node is a vector or may be one: a letter with a hat."""
  has_hat = node.head == 'symbol' and 'hat' in node.value.marks
  return has_hat or is_vector(node)


def times(operator: str, a: Node, b: Node) -> Node:
  """A product written with a sign: cross or dot between two vectors, ordinary otherwise."""
  if operator == '\\times' and _has_direction(a) and _has_direction(b):
    return Node('cross', (a, b))
  has_vector = is_vector(a) or is_vector(b)
  if operator == '\\cdot' and has_vector and _has_direction(a) and _has_direction(b):
    return Node('dot', (a, b))
  return mul(a, b)


def continues_list(parser, factors: list[Node]) -> bool:
  """Whether numbers alone follow each other with blanks between, as in 1 2 3, which is no product."""
  before = parser.peek(-1)
  is_after_number = before.kind == 'number' and parser.peek().kind == 'number'
  return is_after_number and bool(factors) and all(factor.head == 'number' for factor in factors)


def are_multiplicities(factors: list[Node]) -> bool:
  """Whether factors are values with how often they occur, 0^2 1^4: no product has a power of 0 or 1 written out."""
  if len(factors) < 2 or not all(_is_number_power(factor) for factor in factors):
    return False
  return any(factor.args[0] in (ZERO, ONE) for factor in factors)


def _is_number_power(node: Node) -> bool:
  return node.head == 'pow' and all(part.head == 'number' for part in node.args)


def listed(factors: list[Node]) -> Node:
  """Numbers as a list; a power is a pair of the value and its count."""
  entries = []
  for factor in factors:
    if factor.head == 'pow':
      factor = Node('list', factor.args, '^')
    entries.append(factor)
  return Node('list', tuple(entries), ')')
