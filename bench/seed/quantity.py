"""The Numeric type: a number with or without a unit, scored by its relative error."""

from fractions import Fraction
from typing import NamedTuple

from bench.seed import comparison, equations, kinds
from bench.seed.algebra.canonical import Context, canonical
from bench.seed.algebra.equivalence import Verdict
from bench.seed.algebra.numeric import Point, Undefined, evaluate, is_scalar
from bench.seed.algebra.relations import factor, proportional
from bench.seed.nodes import ONE, Budget, Node, ParseError, SeedError, Unsupported, add, mul, power, walk
from bench.seed.pairs import branches, pair, settle
from bench.seed.reading.atoms.quantities import is_unit
from bench.seed.reading.remarks import counted
from bench.seed.reading.statement import member, statements, tokens_of
from bench.seed.reading.tokens import label, tokenize
from bench.seed.reading.units import ONE_UNIT, Unit, lookup
from bench.seed.result import TIERS, Mark, Settings

_DIGITS = 40
# Rounding in unit factors must not push a value over an inclusive border.
_SLACK = 1e-12
# "Units" of a drawing, whatever their length, and the power of a length that they are.
_UNITS_OF_A_FIGURE = {'units': 1, 'square units': 2, 'cubic units': 3}


class NotANumber(Exception):
  """The answer contains a symbol, is complex, or has several values."""


def numeric(reference: str, prediction: str, job, settings: Settings) -> Mark:
  """Points by relative error after conversion of units; 0 for a different dimension."""
  try:
    wanted, unit = comparison.read_reference(_quantity, reference, job)
  except NotANumber:
    return _formula(reference, prediction, job, settings)
  try:
    given, other = _quantity(prediction, job)
  except NotANumber:
    return Mark(0.0, 'tolerance')
  if unit and other:
    is_same_dimension = unit.powers == other.powers
    points = 0.0
    if is_same_dimension:
      points = _points(_si(wanted, unit), _si(given, other), settings)
    return Mark(points, 'tolerance')
  if not unit and not other:
    return Mark(_points(wanted, given, settings), 'tolerance')
  measured, counted = (reference, prediction) if unit else (prediction, reference)
  if _bare(measured, job) or _counts_something(counted, unit or other, job):
    return Mark(0.0, 'tolerance', flags=('lone_unit',))
  return _lone(wanted, unit, given, other, settings)


class _Amount(NamedTuple):
  """A number with or without a unit, and the left side that it is the value of."""

  name: tuple[str, ...]
  value: object
  unit: Unit | None


def with_units(scorer, reference: str, prediction: str, kind: str, job, settings: Settings) -> Mark:
  """The mark of two Expressions or Equations: by their units if both are numbers, by `scorer` if that says nothing.

  One of the units must be upright, since a letter of a formula is no unit.
  """
  has_unit = _has_written_unit(reference) or _has_written_unit(prediction)
  wanted = _amount(reference, job) if has_unit else None
  given = _amount(prediction, job) if wanted else None
  if given is None or not _may_be_one_quantity(reference, prediction, kind, wanted, given, job):
    return scorer(reference, prediction, job)
  if wanted.unit and given.unit:
    return _both_measured(wanted, given) or _partial(scorer(reference, prediction, job))
  measured, other = (reference, prediction) if wanted.unit else (prediction, reference)
  if _counts_something(other, wanted.unit or given.unit, job):
    return Mark(0.0, 'numeric')
  if not _are_equal(wanted.value, given.value) or _bare(measured, job):
    return scorer(reference, prediction, job)
  points = 0.0 if settings.lone_unit == 'zero' else 100.0
  return Mark(points, 'numeric', flags=('lone_unit',))


def _both_measured(wanted: _Amount, given: _Amount) -> Mark | None:
  """The mark of two numbers with units: full for one value, nothing for another dimension, else None."""
  if wanted.unit.powers != given.unit.powers:
    return Mark(0.0, 'numeric')
  if _are_equal(_si(wanted.value, wanted.unit), _si(given.value, given.unit)):
    return Mark(100.0, 'numeric')
  return None


def _partial(mark: Mark) -> Mark:
  """The mark of two values that differ; one that took their units for words is wrong."""
  if mark.points == 100:
    return Mark(0.0, 'numeric')
  return mark


def _has_written_unit(text: str) -> bool:
  """Whether a word of the answer, outside its formulas' letters, is a unit."""
  try:
    tokens = tokenize(text, units=True)
  except SeedError:
    return False
  return any(token.kind == 'word' and lookup(token.text) for token in tokens)


def _amount(text: str, job) -> _Amount | None:
  """The answer as a number with or without a unit; None if it is none."""
  try:
    value, unit = _quantity(text, job)
  except (NotANumber, SeedError):
    return None
  parts = statements(tokens_of(text, comparison.unit_reading(job.reading)))
  members = parts[0].members
  name = label(members[0]) if len(members) > 1 else ()
  return _Amount(name, value, unit)


def _may_be_one_quantity(reference: str, prediction: str, kind: str, a: _Amount, b: _Amount, job) -> bool:
  """Whether the left sides, if they count, are the same."""
  if a.name == b.name:
    return True
  if kind == 'Equation':
    return False
  wanted = equations.statements_of(reference, job.reading)
  given = equations.statements_of(prediction, job.reading)
  return equations.renamed(wanted, given) is None


def _counts_something(text: str, unit: Unit, job) -> bool:
  """Whether an answer without a unit counts what the unit of the other one does not measure: 5 digits, 5 inches."""
  noun = counted(tokens_of(text, comparison.unit_reading(job.reading)))
  if noun is None:
    return False
  squares = _UNITS_OF_A_FIGURE.get(noun)
  if squares is None:
    return True
  return unit.powers != lookup('m').to(Fraction(squares)).powers


def _are_equal(a, b) -> bool:
  return abs(a - b) <= _SLACK * abs(a)


def _bare(text: str, job) -> bool:
  """Whether an answer is a unit without a number, which must not match the bare number 1."""
  reading = comparison.unit_reading(job.reading)
  first = statements(tokens_of(text, reading))[0]
  return is_unit(member(first.members[-1], reading))


def _lone(wanted, unit, given, other, settings) -> Mark:
  """The mark if only one side has a unit: the numbers are compared without it; an angle or a count also converted."""
  points = 0.0 if settings.lone_unit == 'zero' else _points(wanted, given, settings)
  if (unit or other).dimensionless:
    converted = _points(_si(wanted, unit or ONE_UNIT), _si(given, other or ONE_UNIT), settings)
    points = max(points, converted)
  return Mark(points, 'tolerance', flags=('lone_unit',))


def _si(value, unit: Unit):
  """The value in SI units."""

  def exact(fraction: Fraction):
    return value.context.mpf(fraction.numerator) / fraction.denominator

  scale = exact(unit.factor) if isinstance(unit.factor, Fraction) else unit.factor
  if not unit.zero:
    return value * scale
  return value * scale + exact(unit.zero)


def _points(wanted, given, settings: Settings) -> float:
  """The points of the first tier whose border the relative error does not exceed."""
  is_finite = wanted.context.isfinite(wanted) and given.context.isfinite(given)
  if wanted == 0 or not is_finite:
    if given == wanted:
      return 100.0
    return 0.0
  error = abs(given - wanted) / abs(wanted)
  for border, points in TIERS[settings.tiers]:
    if error <= border * (1 + _SLACK):
      return float(points)
  return 0.0


def _quantity(text: str, job) -> tuple[object, Unit | None]:
  """The value and the unit of an answer. Raises NotANumber, ParseError or TooLarge."""
  reading = comparison.unit_reading(job.reading)
  parts = statements(tokens_of(text, reading))
  if len(parts) != 1:
    raise NotANumber('more than one value')
  if parts[0].inequality:
    raise NotANumber('an inequality')
  node = member(parts[0].members[-1], reading)
  if sum(1 for _ in walk(node)) > 400:
    raise ParseError('too long for a number')
  values = branches(node)
  if len(values) > 1:
    raise NotANumber('two values')
  number, unit = measure(node, job.budget)
  try:
    value = evaluate(number, Point({}, _DIGITS, job.budget))
  except Undefined as error:
    if any(n.head == 'symbol' for n in walk(number)):
      raise NotANumber('a symbol without a value') from error
    raise Unsupported('no value') from error
  return _real(value), unit


def _real(value):
  if not is_scalar(value):
    raise NotANumber('a vector or a matrix')
  if hasattr(value, 'imag') and value.imag != 0:
    if abs(value.imag) > abs(value) * 1e-25:
      raise NotANumber('a complex value')
    value = value.real
  return value


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


def _formula(reference: str, prediction: str, job, settings: Settings) -> Mark:
  """The mark for a reference with symbols: the answers may differ by a constant factor within the tolerance."""
  a = comparison.read_reference(kinds.read_expression, reference, job)
  b = kinds.read_expression(prediction, job)
  exact = comparison.trees(a, b, job)
  if exact.points == 100:
    return exact
  if 'relation' in (a.head, b.head):
    return Mark(0.0, 'tolerance')
  a, b, ordered = settle(a, b, hats=job.hats)
  both = pair(a, b, ordered, job.budget)
  if proportional(both.reference, both.prediction, both.context) is not Verdict.EQUAL:
    return Mark(0.0, 'tolerance')
  ratio = factor(both.reference, both.prediction, both.context)
  if ratio is None or ratio.imag != 0:
    return Mark(0.0, 'tolerance')
  return Mark(_points(ratio.real * 0 + 1, ratio.real, settings), 'tolerance')
