"""Expression trees: one node type, names with decorations, and the few walks that everything else uses."""

from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any, NamedTuple


def words(text: str) -> frozenset[str]:
  """A set of words from a line of them."""
  return frozenset(text.split())


class SeedError(Exception):
  """A text that cannot be scored; `status` says why (see `Score.status`)."""

  status = 'parse_error'


class ParseError(SeedError):
  """Not an expression."""


class TooLarge(SeedError):
  """Beyond the limits on length, digits, nodes, nesting or work."""

  status = 'too_large'


class Unsupported(SeedError):
  """An expression without a meaning here, such as a division by zero."""

  status = 'unsupported'


class Budget:
  """Steps left for one pair. Counting steps, not seconds, makes a verdict the same on every machine."""

  def __init__(self, steps: int):
    self.steps = steps

  def spend(self, steps: int = 1) -> None:
    self.steps -= steps
    if self.steps < 0:
      raise TooLarge('the pair needs more work than one pair may take')


class Name(NamedTuple):
  """A symbol's identity: its letter or command, its decorations, its subscript (a tuple of tokens)."""

  base: str
  sub: tuple[str, ...] = ()
  marks: tuple[str, ...] = ()

  def marked(self, *marks: str) -> 'Name':
    return self._replace(marks=tuple(sorted((*self.marks, *marks))))


class Node(NamedTuple):
  """`head` says what it is, `args` are its children, `value` is what a leaf or an operator carries.

  Heads: number (value: Fraction), symbol (value: Name), pi, e, i, infinity, add, mul, pow, every function by
  its
  name, and the heads of `OPAQUE`.
  """

  head: str
  args: tuple['Node', ...] = ()
  value: Any = None


# Compared by their parts, never evaluated at a point.
OPAQUE = frozenset(
  (
    'derivative',
    'variation',
    'difference',
    'integral',
    'sum',
    'product',
    'limit',
    'nabla',
    'laplacian',
    'div',
    'curl',
    'call',
    'at',
    'list',
    'ratio',
    'relation',
    'case',
    'cases',
    'setbuilder',
    'bigunion',
    'bigintersection',
    'union',
    'intersection',
    'setminus',
    'ket',
    'bra',
    'mean',
    'adjoint',
    'delta',
    'step',
    'trace',
    'norm',
    'commutator',
    'bar',
  )
)

PI = Node('pi')
E = Node('e')
I = Node('i')
INFINITY = Node('infinity')


def number(value: int | Fraction) -> Node:
  """A number node."""
  return Node('number', (), Fraction(value))


ZERO = number(0)
ONE = number(1)
MINUS_ONE = number(-1)
HALF = number(Fraction(1, 2))


def symbol(base: str, sub: tuple[str, ...] = (), marks: tuple[str, ...] = ()) -> Node:
  """A symbol node: base letter, subscript and decorations are all its identity."""
  return Node('symbol', (), Name(base, sub, tuple(sorted(marks))))


def add(*terms: Node) -> Node:
  """A sum."""
  if len(terms) == 1:
    return terms[0]
  return Node('add', terms)


def mul(*factors: Node) -> Node:
  """A product."""
  if len(factors) == 1:
    return factors[0]
  return Node('mul', factors)


def power(base: Node, exponent: Node) -> Node:
  """A power."""
  return Node('pow', (base, exponent))


def negative(x: Node) -> Node:
  """−x."""
  if x.head == 'number':
    return number(-x.value)
  return Node('mul', (MINUS_ONE, x))


def subtract(a: Node, b: Node) -> Node:
  """a − b."""
  return add(a, negative(b))


def divide(a: Node, b: Node) -> Node:
  """a / b."""
  return mul(a, power(b, MINUS_ONE))


def walk(node: Node) -> Iterator[Node]:
  """Every node, parents first, children from left to right; without recursion."""
  stack = [node]
  while stack:
    node = stack.pop()
    yield node
    stack.extend(reversed(node.args))


def names(node: Node) -> list[Name]:
  """The names in a tree, each once, in order of first appearance."""
  return list(dict.fromkeys(n.value for n in walk(node) if n.head == 'symbol'))


def heads(node: Node) -> set[str]:
  """The heads of a node and of all below it."""
  return {n.head for n in walk(node)}


def rewrite(node: Node, rule: Callable[[Node], Node]) -> Node:
  """The tree with `rule` applied to every node, children first."""
  if node.args:
    node = node._replace(args=tuple(rewrite(a, rule) for a in node.args))
  return rule(node)


def depth(node: Node) -> int:
  """Levels of a tree; without recursion."""
  level = [node]
  most = 0
  while level:
    most += 1
    level = [a for n in level for a in n.args]
  return most
