"""English names of units: whole words, with prefixes and plurals, and phrases such as "metres per second squared"."""

import re

_SYMBOLS = {
  'm': 'meter metre',
  's': 'second sec',
  'g': 'gram gramme gm',
  'A': 'ampere amp',
  'K': 'kelvin',
  'mol': 'mole',
  'cd': 'candela',
  'Hz': 'hertz',
  'N': 'newton',
  'Pa': 'pascal',
  'J': 'joule',
  'W': 'watt',
  'C': 'coulomb',
  'V': 'volt',
  'F': 'farad',
  'Ω': 'ohm',
  'S': 'siemens',
  'Wb': 'weber',
  'T': 'tesla',
  'H': 'henry',
  'lm': 'lumen',
  'lx': 'lux',
  'Bq': 'becquerel',
  'Gy': 'gray',
  'Sv': 'sievert',
  'eV': 'electronvolt',
  'L': 'liter litre',
  'G': 'gauss',
  'Oe': 'oersted',
  'Ry': 'rydberg',
  'cal': 'calorie',
  'rad': 'radian rad',
  'pc': 'parsec',
  'erg': 'erg',
  'bar': 'bar',
  'dyn': 'dyne',
  'Da': 'dalton',
  'Å': 'angstrom',
  'deg': 'degree deg',
  'min': 'minute min',
  'h': 'hour hr',
  'day': 'day',
  'week': 'week',
  'yr': 'year yr',
  'atm': 'atmosphere',
  'Ha': 'hartree',
  'degC': 'celsius',
  'degF': 'fahrenheit',
  'ft': 'foot feet',
  'inch': 'inch',
  'yd': 'yard yd',
  'mile': 'mile',
  'lb': 'pound lb',
  'ounce': 'ounce oz',
}
_SYMBOL_OF = {name: symbol for symbol, names in _SYMBOLS.items() for name in names.split()}
_OTHERS = {'micron': 'μm', 'cc': 'cm3', 'Gs': 'G'}
_PREFIXES = {
  'tera': 'T',
  'giga': 'G',
  'mega': 'M',
  'kilo': 'k',
  'deci': 'd',
  'centi': 'c',
  'milli': 'm',
  'micro': 'μ',
  'nano': 'n',
  'pico': 'p',
  'femto': 'f',
}
_SHORT = 3  # letters of an abbreviation, whose case matters

# Phrases, and how they are written in signs.
_PHRASES = (
  (re.compile(r'\bdegrees?\s+(?:[Cc]elsius|C)\b'), 'celsius'),
  (re.compile(r'\bdegrees?\s+(?:[Ff]ahrenheit|F)\b'), 'fahrenheit'),
  (re.compile(r'\blight[ -]years?\b'), 'ly'),
  (re.compile(r'\b(?:square|sq\.?)\s+([A-Za-z]+)'), r'\1^2'),
  (re.compile(r'\b(?:cubic|cu\.?)\s+([A-Za-z]+)'), r'\1^3'),
  (re.compile(r'\b([A-Za-z]+)\s+squared\b'), r'\1^2'),
  (re.compile(r'\b([A-Za-z]+)\s+cubed\b'), r'\1^3'),
  (re.compile(r'\s+per\s+'), '/'),
)


def symbol_of(word: str) -> str:
  """The symbol of a unit's name in the singular or plural, with or without a prefix's name; the word if it is none."""
  if len(word) > _SHORT:
    word = word[0].lower() + word[1:]
  for name in _singulars(word):
    symbol = _OTHERS.get(name) or _prefixed(name)
    if symbol:
      return symbol
  return word


def _singulars(word: str) -> list[str]:
  """The word, and what it may be the plural of."""
  return [word, word.removesuffix('s'), word.removesuffix('es')]


def _prefixed(name: str) -> str | None:
  """The symbol of a name in the singular."""
  if name in _SYMBOL_OF:
    return _SYMBOL_OF[name]
  for prefix, letter in _PREFIXES.items():
    rest = name.removeprefix(prefix)
    if rest != name and rest in _SYMBOL_OF:
      return letter + _SYMBOL_OF[rest]
  return None


def in_signs(phrase: str) -> str:
  """A phrase of units as a formula: m/s^2 for metres per second squared."""
  for pattern, signs in _PHRASES:
    phrase = pattern.sub(signs, phrase)
  return phrase
