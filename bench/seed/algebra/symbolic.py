"""The last test, for pairs that numbers cannot decide: simplify the difference of two sympy objects.

The objects are built node by node, symbols under names of our own; no text of an answer reaches sympy. Slow
and
unbounded, so it runs only in a process that can be killed.
"""

import functools

import sympy

from bench.seed.algebra.canonical import Context
from bench.seed.algebra.phases import complex_names, is_conjugate, unconjugated
from bench.seed.nodes import INFINITY, OPAQUE, Name, Node

_CONSTANTS = {'pi': sympy.pi, 'e': sympy.E, 'i': sympy.I, INFINITY.head: sympy.oo}
_SAME_NAMES = (
  'sin cos tan cot sec csc sinh cosh tanh coth sech csch asin acos atan acot asec acsc asinh acosh '
  'atanh acoth asech acsch'
)
_FUNCTIONS = {
  'add': sympy.Add,
  'mul': sympy.Mul,
  'pow': sympy.Pow,
  'ln': sympy.log,
  'abs': sympy.Abs,
  're': sympy.re,
  'im': sympy.im,
  'arg': sympy.arg,
  'sign': sympy.sign,
  'conjugate': sympy.conjugate,
  'factorial': sympy.factorial,
  'factorial2': sympy.factorial2,
  'binomial': sympy.binomial,
  'gamma': sympy.gamma,
  'zeta': sympy.zeta,
  'erf': sympy.erf,
  'erfc': sympy.erfc,
  'min': sympy.Min,
  'max': sympy.Max,
} | {name: getattr(sympy, name) for name in _SAME_NAMES.split()}


def equal(a: Node, b: Node, context: Context) -> bool:
  """Whether sympy finds the difference of two canonical trees to be zero."""
  phased = complex_names((a, b), context.ordered)
  return sympy.simplify(build(a, context, phased) - build(b, context, phased)) == 0


def build(node: Node, context: Context, phased: frozenset[Name] = frozenset()):
  """The sympy object of a tree; `phased` are its complex names."""
  inner = functools.partial(build, context=context, phased=phased)
  if node.head == 'number':
    return sympy.Rational(node.value.numerator, node.value.denominator)
  if node.head == 'symbol':
    return _symbol(node.value, context, phased)
  if node.head in _CONSTANTS:
    return _CONSTANTS[node.head]
  if node.head == 'matrix':
    return sympy.ImmutableMatrix(*node.value, [inner(a) for a in node.args])
  if node.head in _FUNCTIONS:
    return _FUNCTIONS[node.head](*map(inner, node.args))
  # Anything else is an unknown function: equal only where its parts are.
  tag = sorted(OPAQUE).index(node.head) if node.head in OPAQUE else len(OPAQUE)
  return sympy.Function(f'f{tag}_{len(node.args)}')(*map(inner, node.args))


def _symbol(name: Name, context: Context, phased: frozenset[Name]):
  plain = unconjugated(name)
  is_phased = plain in phased
  key = plain if is_phased else name
  label = f's{context.rank.setdefault(key, len(context.rank))}'
  if name in context.ordered:
    return sympy.Symbol(label, commutative=False)
  if not is_phased:
    return sympy.Symbol(label, positive=True)
  symbol = sympy.Symbol(label)
  if is_conjugate(name):
    return sympy.conjugate(symbol)
  return symbol
