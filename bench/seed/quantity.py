"""The Numeric type: a number with or without a unit, scored by its relative error."""

from fractions import Fraction

from bench.seed import kinds
from bench.seed.algebra.canonical import Context, canonical
from bench.seed.algebra.equivalence import Verdict
from bench.seed.algebra.numeric import Point, Undefined, evaluate, is_scalar
from bench.seed.algebra.relations import factor, proportional
from bench.seed.nodes import ONE, Budget, Node, ParseError, Unsupported, add, mul, power, walk
from bench.seed.pairs import branches, pair, settle
from bench.seed.reading.atoms.quantities import is_unit
from bench.seed.reading.splitting import EQUALS
from bench.seed.reading.statement import member, statements, tokens_of
from bench.seed.reading.units import ONE_UNIT, Unit
from bench.seed.result import TIERS, Mark, Settings

_DIGITS = 40
# Rounding in unit factors must not push a value over an inclusive border.
_SLACK = 1e-12


class NotANumber(Exception):
  """A symbol is left over, the value is complex, or there is more than one."""


def numeric(reference: str, prediction: str, job, settings: Settings) -> Mark:
  """Points by relative error after conversion of units; another dimension is 0."""
  try:
    wanted, unit = kinds.read_reference(_quantity, reference, job)
  except NotANumber:
    return _formula(reference, prediction, job, settings)
  try:
    given, other = _quantity(prediction, job)
  except NotANumber:
    return Mark(0.0, 'tolerance')
  if unit and other:
    if unit.powers != other.powers:
      return Mark(0.0, 'tolerance')
    return Mark(_points(_si(wanted, unit), _si(given, other), settings), 'tolerance')
  if not unit and not other:
    return Mark(_points(wanted, given, settings), 'tolerance')
  if _bare(reference if unit else prediction, job):
    return Mark(0.0, 'tolerance', flags=('lone_unit',))
  return _lone(wanted, unit, given, other, settings)


def _bare(text: str, job) -> bool:
  """Whether an answer is a unit without a number: that it counts as one says nothing about a bare number."""
  reading = kinds.unit_reading(job.reading)
  return is_unit(member(statements(tokens_of(text, reading))[0].members[-1], reading))


def _lone(wanted, unit, given, other, settings) -> Mark:
  """Only one side has a unit: the numbers are compared as they stand; an angle or a count also converted."""
  points = 0.0 if settings.lone_unit == 'zero' else _points(wanted, given, settings)
  if (unit or other).dimensionless:
    points = max(points, _points(_si(wanted, unit or ONE_UNIT), _si(given, other or ONE_UNIT), settings))
  return Mark(points, 'tolerance', flags=('lone_unit',))


def _si(value, unit: Unit):
  f = unit.factor
  scale = value.context.mpf(f.numerator) / f.denominator if isinstance(f, Fraction) else f
  return value * scale + (value.context.mpf(unit.zero.numerator) / unit.zero.denominator if unit.zero else 0)


def _points(wanted, given, settings: Settings) -> float:
  if wanted == 0 or not all(x.context.isfinite(x) for x in (wanted, given)):
    return 100.0 if given == wanted else 0.0
  error = abs(given - wanted) / abs(wanted)
  return next((float(points) for border, points in TIERS[settings.tiers] if error <= border * (1 + _SLACK)), 0.0)


def _quantity(text: str, job) -> tuple[object, Unit | None]:
  """The value and the unit of an answer. Raises NotANumber, ParseError or TooLarge."""
  reading = kinds.unit_reading(job.reading)
  parts = statements(tokens_of(text, reading))
  if len(parts) != 1:
    raise NotANumber('more than one value')
  if any(s not in EQUALS for s in parts[0].signs):
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
      raise NotANumber('a symbol is left over') from error
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
  """A tree with units taken out: a number tree and the unit it counts, None without one."""
  if node.head == 'unit':
    return ONE, node.value
  if not node.args:
    return node, None
  if node.head == 'pow':
    base, unit = measure(node.args[0], budget)
    exponent, none = measure(node.args[1], budget)
    if none:
      raise NotANumber('a unit in an exponent')
    return power(base, exponent), unit and _unit_power(unit, exponent, budget)
  parts = [measure(a, budget) for a in node.args]
  values, found = tuple(v for v, _ in parts), [u for _, u in parts]
  if not any(found):
    return node._replace(args=values), None
  if node.head == 'mul':
    unit = ONE_UNIT
    for u in filter(None, found):
      # A temperature scale keeps its zero point only where it stands alone.
      unit = u if unit is ONE_UNIT else unit.times(u)
    return mul(*values), unit
  if node.head == 'add':
    return _sum(values, found), found[0]
  if all(u is None or u.dimensionless for u in found):
    return node._replace(args=tuple(_scaled(v, u) for v, u in parts)), None
  raise NotANumber('a function of a unit')


def _unit_power(unit: Unit, exponent: Node, budget) -> Unit:
  value = canonical(exponent, Context({}, frozenset(), budget))
  if value.head != 'number':
    raise NotANumber('a unit to a power that is no number')
  try:
    return unit.to(value.value)
  except ValueError as error:
    raise NotANumber(str(error)) from error


def _sum(values, found) -> Node:
  if not all(u and u.powers == found[0].powers for u in found if found[0]) or not found[0]:
    raise NotANumber('a sum of different units')
  return add(
    *(_scaled(v, Unit(Fraction(u.factor) / Fraction(found[0].factor), u.powers)) for v, u in zip(values, found))
  )


def _scaled(value: Node, unit: Unit | None) -> Node:
  return value if unit is None else mul(value, Node('number', (), Fraction(unit.factor)))


def _formula(reference: str, prediction: str, job, settings: Settings) -> Mark:
  """A reference with a symbol left over: the answers may differ by a constant factor within the tolerance."""
  a, b = kinds.read_reference(kinds.read_expression, reference, job), kinds.read_expression(prediction, job)
  exact = kinds.trees(a, b, job)
  if exact.points == 100 or 'relation' in (a.head, b.head):
    return exact if exact.points == 100 else Mark(0.0, 'tolerance')
  a, b, ordered = settle(a, b, hats=job.hats)
  both = pair(a, b, ordered, job.budget)
  if proportional(both.reference, both.prediction, both.context) is not Verdict.EQUAL:
    return Mark(0.0, 'tolerance')
  ratio = factor(both.reference, both.prediction, both.context)
  if ratio is None or ratio.imag != 0:
    return Mark(0.0, 'tolerance')
  return Mark(_points(ratio.real * 0 + 1, ratio.real, settings), 'tolerance')
