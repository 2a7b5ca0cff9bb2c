"""The unit of a tree, and the tree without its units."""

from fractions import Fraction

from bench.seed.algebra.canonical import Context, canonical
from bench.seed.nodes import ONE, Budget, Node, add, mul, power
from bench.seed.reading.units import ONE_UNIT, Unit


class NotANumber(Exception):
  """The answer contains a symbol, is complex, or has several values."""


def measure(node: Node, budget: Budget) -> tuple[Node, Unit | None]:
  """(the tree without its units, the unit of the whole): None without a unit."""
  if node.head == 'unit':
    return ONE, node.value
  if not node.args:
    return node, None
  if node.head == 'pow':
    return _measure_power(node, budget)
  parts = [measure(arg, budget) for arg in node.args]
  values = tuple(value for value, _ in parts)
  units = [unit for _, unit in parts]
  if not any(units):
    return node._replace(args=values), None
  if node.head == 'mul':
    unit = ONE_UNIT
    for factor_unit in filter(None, units):
      # A temperature scale keeps its zero point only as the sole unit.
      unit = factor_unit if unit is ONE_UNIT else unit.times(factor_unit)
    return mul(*values), unit
  if node.head == 'add':
    return _sum(values, units), units[0]
  if all(unit is None or unit.dimensionless for unit in units):
    scaled = tuple(_scaled(value, unit) for value, unit in parts)
    return node._replace(args=scaled), None
  raise NotANumber('a function of a unit')


def _measure_power(node: Node, budget: Budget) -> tuple[Node, Unit | None]:
  base, unit = measure(node.args[0], budget)
  exponent, exponent_unit = measure(node.args[1], budget)
  if exponent_unit:
    raise NotANumber('a unit in an exponent')
  if unit:
    unit = _unit_power(unit, exponent, budget)
  return power(base, exponent), unit


def _unit_power(unit: Unit, exponent: Node, budget) -> Unit:
  value = canonical(exponent, Context({}, frozenset(), budget))
  if value.head != 'number':
    raise NotANumber('a unit to a power that is no number')
  try:
    return unit.to(value.value)
  except ValueError as error:
    raise NotANumber(str(error)) from error


def _sum(values: tuple[Node, ...], units: list[Unit | None]) -> Node:
  """The sum of quantities of one dimension, in the unit of the first."""
  first = units[0]
  if first is None or not all(unit and unit.powers == first.powers for unit in units):
    raise NotANumber('a sum of different units')
  terms = []
  for value, unit in zip(values, units):
    relative = Unit(Fraction(unit.factor) / Fraction(first.factor), unit.powers)
    terms.append(_scaled(value, relative))
  return add(*terms)


def _scaled(value: Node, unit: Unit | None) -> Node:
  if unit is None:
    return value
  return mul(value, Node('number', (), Fraction(unit.factor)))
