"""Units from a fixed table: SI with prefixes, and other units of physics texts. Nothing is parsed as
code."""

import functools
import re
from fractions import Fraction
from typing import NamedTuple

from bench.seed.reading.atoms.unit_names import symbol_of

# Powers of metre, kilogram, second, ampere, kelvin, mole, candela.
_BASE = ('m', 'kg', 's', 'A', 'K', 'mol', 'cd')


class Unit(NamedTuple):
  """A factor to SI, the seven SI exponents, and the zero point (kelvin) of a temperature scale."""

  factor: float | Fraction
  powers: tuple[Fraction, ...]
  zero: Fraction = Fraction(0)

  def times(self, other: 'Unit') -> 'Unit':
    return Unit(_product(self.factor, other.factor), tuple(a + b for a, b in zip(self.powers, other.powers)))

  def to(self, exponent: Fraction) -> 'Unit':
    """Raises ValueError when the exponent is beyond ±12, which no unit has."""
    if abs(exponent) > 12 or exponent.denominator > 12:
      raise ValueError(f'a unit to the power {exponent}')
    exact = exponent.denominator == 1 and isinstance(self.factor, Fraction)
    factor = self.factor ** int(exponent) if exact else float(self.factor) ** float(exponent)
    return Unit(factor, tuple(p * exponent for p in self.powers))

  @property
  def dimensionless(self) -> bool:
    return not any(self.powers)


def _product(a, b):
  if isinstance(a, Fraction) and isinstance(b, Fraction):
    return a * b
  return float(a) * float(b)


def _unit(factor: str | float | Fraction, **powers: int) -> Unit:
  if isinstance(factor, str):
    factor = Fraction(factor)
  return Unit(factor, tuple(Fraction(powers.get(b, 0)) for b in _BASE))


ONE_UNIT = _unit('1')
_JOULE = {'kg': 1, 'm': 2, 's': -2}
_DEGREE = 0.017453292519943295
_EV = '1.602176634e-19'
_HBAR = 1.054571817e-34
_KB = '1.380649e-23'
_U = '1.66053906892e-27'

# CODATA 2022 where a value is measured.
_PREFIXED = {
  'm': _unit('1', m=1),
  'g': _unit('0.001', kg=1),
  's': _unit('1', s=1),
  'A': _unit('1', A=1),
  'K': _unit('1', K=1),
  'mol': _unit('1', mol=1),
  'cd': _unit('1', cd=1),
  'Hz': _unit('1', s=-1),
  'N': _unit('1', kg=1, m=1, s=-2),
  'Pa': _unit('1', kg=1, m=-1, s=-2),
  'J': _unit('1', **_JOULE),
  'W': _unit('1', kg=1, m=2, s=-3),
  'C': _unit('1', A=1, s=1),
  'V': _unit('1', kg=1, m=2, s=-3, A=-1),
  'F': _unit('1', kg=-1, m=-2, s=4, A=2),
  'Ω': _unit('1', kg=1, m=2, s=-3, A=-2),
  'S': _unit('1', kg=-1, m=-2, s=3, A=2),
  'Wb': _unit('1', kg=1, m=2, s=-2, A=-1),
  'T': _unit('1', kg=1, s=-2, A=-1),
  'H': _unit('1', kg=1, m=2, s=-2, A=-2),
  'lm': _unit('1', cd=1),
  'lx': _unit('1', cd=1, m=-2),
  'Bq': _unit('1', s=-1),
  'Gy': _unit('1', m=2, s=-2),
  'Sv': _unit('1', m=2, s=-2),
  'eV': _unit(_EV, **_JOULE),
  'L': _unit('0.001', m=3),
  'l': _unit('0.001', m=3),
  'bar': _unit('100000', kg=1, m=-1, s=-2),
  'G': _unit('0.0001', kg=1, s=-2, A=-1),
  'Oe': _unit(79.57747154594767, A=1, m=-1),
  'Ry': _unit('2.1798723611030e-18', **_JOULE),
  'cal': _unit('4.184', **_JOULE),
  'rad': ONE_UNIT,
  'pc': _unit('3.0856775814913673e16', m=1),
  'b': _unit('1e-28', m=2),
  'erg': _unit('1e-7', **_JOULE),
  'Da': _unit(_U, kg=1),
  'Torr': _unit(133.32236842105263, kg=1, m=-1, s=-2),
}
_PLAIN = {
  'Å': _unit('1e-10', m=1),
  'deg': _unit(_DEGREE),
  'arcmin': _unit(_DEGREE / 60),
  'arcsec': _unit(_DEGREE / 3600),
  'sr': ONE_UNIT,
  'min': _unit('60', s=1),
  'h': _unit('3600', s=1),
  'hr': _unit('3600', s=1),
  'day': _unit('86400', s=1),
  'd': _unit('86400', s=1),
  'week': _unit('604800', s=1),
  'yr': _unit('31557600', s=1),
  'dyn': _unit('1e-5', kg=1, m=1, s=-2),
  'atm': _unit('101325', kg=1, m=-1, s=-2),
  'u': _unit(_U, kg=1),
  'amu': _unit(_U, kg=1),
  'ft': _unit('0.3048', m=1),
  'inch': _unit('0.0254', m=1),
  'yd': _unit('0.9144', m=1),
  'mile': _unit('1609.344', m=1),
  'mi': _unit('1609.344', m=1),
  'kph': _unit(Fraction(10, 36), m=1, s=-1),
  'mph': _unit('0.44704', m=1, s=-1),
  'lb': _unit('0.45359237', kg=1),
  'ounce': _unit('0.028349523125', kg=1),
  'Ha': _unit('4.3597447222060e-18', **_JOULE),
  'degC': Unit(Fraction(1), _unit('1', K=1).powers, Fraction('273.15')),
  'degF': Unit(Fraction(5, 9), _unit('1', K=1).powers, Fraction('459.67') * 5 / 9),
  'ppm': _unit('1e-6'),
  'ly': _unit('9460730472580800', m=1),
  'AU': _unit('149597870700', m=1),
  'rpm': _unit(2 * _DEGREE * 180 / 60, s=-1),
  'emu': _unit('0.001', A=1, m=2),
  'mmHg': _unit('133.322387415', kg=1, m=-1, s=-2),
}
_PREFIXES = {
  p: Fraction(10) ** n
  for p, n in {
    'Q': 30,
    'R': 27,
    'Y': 24,
    'Z': 21,
    'E': 18,
    'P': 15,
    'T': 12,
    'G': 9,
    'M': 6,
    'k': 3,
    'h': 2,
    'da': 1,
    'd': -1,
    'c': -2,
    'm': -3,
    'μ': -6,
    'n': -9,
    'p': -12,
    'f': -15,
    'a': -18,
    'z': -21,
    'y': -24,
  }.items()
}
# Constants that serve as units, by the symbol's base and subscript.
CONSTANTS = {
  ('\\mu', ('B',)): _unit('9.2740100657e-24', A=1, m=2),
  ('\\mu', ('N',)): _unit('5.0507837393e-27', A=1, m=2),
  ('\\hbar', ()): _unit(_HBAR, kg=1, m=2, s=-1),
  ('m', ('e',)): _unit('9.1093837139e-31', kg=1),
  ('m', ('0',)): _unit('9.1093837139e-31', kg=1),
  ('k', ('B',)): _unit(_KB, kg=1, m=2, s=-2, K=-1),
  ('a', ('0',)): _unit('5.29177210544e-11', m=1),
  ('a', ('B',)): _unit('5.29177210544e-11', m=1),
  ('m', ('p',)): _unit('1.67262192595e-27', kg=1),
  ('N', ('A',)): _unit('6.02214076e23', mol=-1),
  ('\\Phi', ('0',)): _unit(2.067833848461929e-15, kg=1, m=2, s=-2, A=-1),
}


@functools.lru_cache(4096)
def lookup(word: str) -> Unit | None:
  """The unit a word names: a unit, a prefixed unit, a spelled-out one, or several run together (Vs, Nm)."""
  if len(word) > 24:
    return None
  whole = _whole(word)
  if whole:
    return whole
  for cut in range(len(word) - 1, 0, -1):
    head = _whole(word[:cut])
    rest = head and lookup(word[cut:])
    if rest:
      return head.times(rest)
  return None


def _whole(word: str) -> Unit | None:
  word = symbol_of(word)
  if word == 'cm3':
    return lookup('cm').to(Fraction(3))
  unit = _PREFIXED.get(word) or _PLAIN.get(word)
  if unit:
    return unit
  for length in (1, 2):
    unit = _PREFIXED.get(word[length:])
    if unit and word[:length] in _PREFIXES:
      return _unit(str(_PREFIXES[word[:length]])).times(unit)
  return None


def is_unit_text(text: str) -> bool:
  """Whether every word of a piece of text is a unit, as in `m/s` or `J mol^{-1}`."""
  words = re.findall(r'\\?[A-Za-z]+', text)
  return bool(words) and all(w[0] == '\\' or lookup(w) for w in words)


def unit_before_words(text: str) -> tuple[str, str]:
  """(the unit, the rest) of a text such as `mA, upward`; an empty unit if it starts with none."""
  match = re.match(r'([A-Za-z0-9/^]+)[\s,;:(]', text)
  if match and is_unit_text(match[1]):
    return match[1], text[match.end(1) :].strip()
  return '', text


_PIECE = r'\\(?:text|textrm|mathrm|mbox)\s*\{([^{}]*)\}(\s*\^\s*(?:\{[^{}]*\}|\d))?'
_BETWEEN = r'(?:\\[,;: ]|\\cdot(?![A-Za-z])|[~\s/])*'
_PIECES = re.compile(rf'{_PIECE}(?:{_BETWEEN}{_PIECE})+')


def in_one_piece(text: str) -> str:
  r"""A text with each unit in one command that is cut at its powers, as in \text{W/(m}^2\cdot\text{K)}."""
  return _PIECES.sub(_joined, text)


def _joined(match: re.Match) -> str:
  unit = re.sub(_PIECE, r' \1\2', match[0])
  if is_unit_text(unit) and unit.count('(') == unit.count(')'):
    return rf'\mathrm{{{unit}}}'
  return match[0]
