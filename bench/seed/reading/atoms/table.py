"""The first sign of an atom → the function that reads it."""

from fractions import Fraction

from bench.seed.nodes import INFINITY, Node, mul, number, power
from bench.seed.reading.atoms.brackets import angle, bar, braces, environment, group, rounding, set_
from bench.seed.reading.atoms.symbols import ACCENTS, accent, prescript


def _number(parser) -> Node:
  digits, _, exponent = parser.next().text.partition('e')
  value = number(Fraction(digits))
  if exponent:
    return mul(value, power(number(10), number(int(exponent))))
  return value


def _binomial(parser) -> Node:
  parser.next()
  return Node('binomial', (parser.argument(), parser.argument()))


def _infinity(parser) -> Node:
  parser.next()
  return INFINITY


ATOMS = {
  'number': _number,
  '^': prescript,
  '{': braces,
  '(': lambda p: group(p, ')'),
  '[': lambda p: group(p, ']', 'commutator'),
  '\\{': set_,
  '|': bar,
  'open|': bar,
  'begin': environment,
  '\\langle': angle,
  '\\lfloor': lambda p: rounding(p, 'floor'),
  '\\lceil': lambda p: rounding(p, 'ceil'),
  '\\infty': _infinity,
  '\\binom': _binomial,
} | {'\\' + a: accent for a in ACCENTS}
