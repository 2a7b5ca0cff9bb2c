"""The Numeric type: a number with or without a unit, scored by its relative error."""

import itertools
from fractions import Fraction
from typing import NamedTuple

from bench.seed import comparison, equations, kinds
from bench.seed.algebra.equivalence import Verdict
from bench.seed.algebra.measures import NotANumber, measure
from bench.seed.algebra.numeric import Point, Undefined, evaluate, is_scalar
from bench.seed.algebra.relations import factor, proportional
from bench.seed.nodes import ParseError, SeedError, Unsupported, walk
from bench.seed.pairs import branches, pair, settle
from bench.seed.reading.answer import statements
from bench.seed.reading.atoms.quantities import scale_of_temperature
from bench.seed.reading.products import is_unit
from bench.seed.reading.remarks import counted
from bench.seed.reading.scanning.scanner import tokenize
from bench.seed.reading.statement import member, tokens_of
from bench.seed.reading.tokens import label, sign
from bench.seed.reading.units import ONE_UNIT, Unit, lookup
from bench.seed.result import TIERS, Mark, Settings

_DIGITS = 40
# Rounding in unit factors must not push a value over an inclusive border.
_SLACK = 1e-12
# Units of a figure whose length is not given, and the power of a length that each measures.
_UNITS_OF_A_FIGURE = {'units': 1, 'square units': 2, 'cubic units': 3}


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
  """A number, its unit if it has one, and the left side of its equation."""

  name: tuple[str, ...]
  value: object
  unit: Unit | None


def with_units(scorer, reference: str, prediction: str, kind: str, job, settings: Settings) -> Mark:
  """The mark of two Expressions or Equations: two numbers with units are compared as quantities, the rest by `scorer`.

  At least one unit must be upright, since an italic letter is a variable.
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
  """The mark of two different values; a full one comes from reading their units as words, and is withdrawn."""
  if mark.points == 100:
    return Mark(0.0, 'numeric')
  return mark


def _has_written_unit(text: str) -> bool:
  """Whether an answer has an upright unit, or a degree sign with the letter of a temperature scale."""
  try:
    tokens = tokenize(text, units=True)
  except SeedError:
    return False
  if any(token.kind == 'word' and lookup(token.text) for token in tokens):
    return True
  signs = [token for token in tokens if token.kind not in '{}']
  return any(sign(a) == '\\circ' and scale_of_temperature(b) for a, b in itertools.pairwise(signs))


def _amount(text: str, job) -> _Amount | None:
  """The answer as an amount; None if it is not a number."""
  try:
    value, unit = _quantity(text, job)
  except (NotANumber, SeedError):
    return None
  parts = statements(tokens_of(text, comparison.unit_reading(job.reading)))
  members = parts[0].members
  name = label(members[0]) if len(members) > 1 else ()
  return _Amount(name, value, unit)


def _may_be_one_quantity(reference: str, prediction: str, kind: str, a: _Amount, b: _Amount, job) -> bool:
  """Whether two values can belong to one quantity: their left sides agree, or the kind of answer ignores them."""
  if a.name == b.name:
    return True
  if kind == 'Equation':
    return False
  wanted = equations.statements_of(reference, job.reading)
  given = equations.statements_of(prediction, job.reading)
  return equations.renamed(wanted, given) is None


def _counts_something(text: str, unit: Unit, job) -> bool:
  """Whether the answer without a unit counts things that the other's unit cannot measure: 5 digits, 5 inches."""
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
