r"""Macros of the physics and siunitx packages, written out as plain LaTeX: \ket{0}, \qty(…), \SI{5}{m}, \num{1e5}."""

import re

from bench.seed.nodes import ParseError

# The number of braced arguments and what they stand for; {0} is the first argument.
_BRACED = {
  'ket': (1, r'|{0}\rangle '),
  'bra': (1, r'\langle {0}| '),
  'braket': (1, r'\langle {0}\rangle '),
  'expval': (1, r'\langle {0}\rangle '),
  'ev': (1, r'\langle {0}\rangle '),
  'mel': (3, r'\langle {0}|{1}|{2}\rangle '),
  'matrixel': (3, r'\langle {0}|{1}|{2}\rangle '),
  'ketbra': (2, r'|{0}\rangle\langle {1}| '),
  'dyad': (2, r'|{0}\rangle\langle {1}| '),
  'comm': (2, r'[{0},{1}]'),
  'si': (1, r'\mathrm{{0}}'),
  'unit': (1, r'\mathrm{{0}}'),
  'SI': (2, r'{0}\,\mathrm{{1}}'),
}
MACROS = frozenset((*_BRACED, 'num', 'qty', 'dd'))
_POWER = re.compile(r'[eEdD]([+-]?\d+)\s*$')
_PER = {'per': '/', 'squared': '^2', 'cubed': '^3'}
_UNIT_NAMES = {
  'metre': 'm',
  'meter': 'm',
  'second': 's',
  'gram': 'g',
  'kilogram': 'kg',
  'ampere': 'A',
  'kelvin': 'K',
  'mole': 'mol',
  'joule': 'J',
  'watt': 'W',
  'volt': 'V',
  'newton': 'N',
  'pascal': 'Pa',
  'tesla': 'T',
  'hertz': 'Hz',
  'coulomb': 'C',
  'farad': 'F',
  'electronvolt': 'eV',
  'kilo': 'k',
  'mega': 'M',
  'giga': 'G',
  'centi': 'c',
  'milli': 'm',
  'nano': 'n',
  'pico': 'p',
}
_COMMAND = re.compile(r'\\([A-Za-z]+)\s*')


def expand(name: str, take, braced) -> str:
  """The plain LaTeX of a macro. `take()` reads its next argument, `braced()` says whether a brace follows.

  Raises ParseError where an argument is missing.
  """
  if name == 'dd':
    if braced():
      return f'd {take()}'
    return 'd '
  if name == 'num':
    return _number(take())
  if name == 'qty':
    if not braced():
      return ''
    first = take()
    if braced():
      return rf'{_number(first)}\,\mathrm{{{_units(take())}}}'
    return f'({first})'
  count, pattern = _BRACED[name]
  values = [take()]
  while len(values) < count and braced():
    values.append(take())
  if name == 'braket' and braced():
    return rf'\langle {values[0]}|{take()}\rangle '
  if len(values) < count:
    raise ParseError(f'\\{name} takes {count} arguments, not {len(values)}')
  if name in ('si', 'unit', 'SI'):
    values = [*map(_number, values[:-1]), _units(values[-1])]
  for k, value in enumerate(values):
    pattern = pattern.replace(f'{{{k}}}', f'{{{value}}}' if 'mathrm' in pattern and k == count - 1 else value, 1)
  return pattern


def _number(text: str) -> str:
  return _POWER.sub(r'\\times 10^{\1}', text)


def _units(text: str) -> str:
  return _COMMAND.sub(lambda m: _PER.get(m[1]) or _UNIT_NAMES.get(m[1]) or m[0], text)
