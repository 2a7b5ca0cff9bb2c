"""The Numeric type in the published scorer's way: free text cut into a number and a unit."""

import re
from collections.abc import Callable

from bench.seed.nodes import Budget, SeedError
from bench.seed.quantity import NotANumber, measure
from bench.seed.reading.parser import Reading, parse
from bench.seed.reading.units import Unit
from bench.seed.result import TIERS, Mark, Settings

_RELATIONS = re.compile(r'=|\\approx|\\simeq|\\sim|\\propto')
# A mantissa, and a power of ten only directly after it. Bounded, unlike the published pattern.
_NUMBER = re.compile(
  r'\s*([+-]?\s*\d{1,400}(?:\.\d{1,400})?)(?:\s*\*\s*10\s*\^\s*\{?\s*([+-]?\d{1,9})\}?'
  r'|[eE]([+-]?\d{1,9}))?'
)


def numeric(reference: str, prediction: str, parse_sympy: Callable, settings: Settings) -> Mark:
  """Compares as expressions where no symbol is left, else by the leading number after a unit conversion."""
  texts = [
    re.sub(r'\\[,;:! ]', '', re.sub(r'\\times|\\cdot', '*', _RELATIONS.split(t)[-1])) for t in (reference, prediction)
  ]
  parsed = [parse_sympy(t) for t in texts]
  if None not in parsed and not any(p.free_symbols for p in parsed):
    return Mark(_points(*parsed, settings), 'tolerance')
  found = [_NUMBER.match(t) for t in texts]
  if None in found:
    return Mark(0.0, status='parse_error')
  values = [float(f'{m[1].replace(" ", "")}e{m[2] or m[3] or 0}') for m in found]
  factors = [_unit(t[m.end() :]) for t, m in zip(texts, found)]
  if all(factors) and factors[0].powers == factors[1].powers:
    values = [v * float(u.factor) for v, u in zip(values, factors)]
  return Mark(_points(*values, settings), 'tolerance')


def _unit(text: str) -> Unit | None:
  """The unit of our table that the rest of a text names; None without one."""
  try:
    return measure(
      parse(f'1{text}' if text.strip()[:1] != '*' else f'1{text.strip()[1:]}', Reading(units=True)), Budget(10**5)
    )[1]
  except (SeedError, NotANumber):
    return None


def _points(wanted, given, settings: Settings) -> float:
  try:
    wanted = float(wanted)
    given = float(given)
    if wanted == 0:
      if given == 0:
        return 100.0
      return 0.0
    error = abs(given - wanted) / abs(wanted)
  except (TypeError, OverflowError, ValueError):
    return 0.0
  if wanted * given < 0:
    return 0.0
  return next((float(p) for border, p in TIERS[settings.tiers] if error <= border), 0.0)
