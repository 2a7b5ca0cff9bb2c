"""Which products are vector products, told by notation: bold letters and arrows are vectors."""

from bench.seed.nodes import Node, mul


def is_vector(node: Node) -> bool:
  """Bold or arrow symbols, their sums and multiples, cross products and curls."""
  if node.head == 'symbol':
    return 'vec' in node.value.marks
  if node.head == 'add':
    return any(map(is_vector, node.args))
  if node.head == 'mul':
    return sum(map(is_vector, node.args)) == 1
  return node.head in ('cross', 'curl')


def _hatted(node: Node) -> bool:
  return node.head == 'symbol' and 'hat' in node.value.marks


def times(operator: str, a: Node, b: Node) -> Node:
  """A product written with a sign: cross or dot between two vectors, ordinary otherwise."""
  if operator == '\\times' and all(is_vector(x) or _hatted(x) for x in (a, b)):
    return Node('cross', (a, b))
  vectors = [is_vector(x) for x in (a, b)]
  if operator == '\\cdot' and any(vectors) and all(v or _hatted(x) for v, x in zip(vectors, (a, b))):
    return Node('dot', (a, b))
  return mul(a, b)
