"""Spellings of a number brought to one form, and the exact value of a rational one."""

import re
from fractions import Fraction

MAX_CHARS = 2_000
MAX_DIGITS = 400

# Characters that answers use for a minus or a multiplication sign, to LaTeX's.
_SIGNS = str.maketrans({'−': '-', '–': '-', '﹣': '-', '-': '-', '×': r'\times ', '·': r'\cdot '})
_WRAPPER = re.compile(r'\\(?:text|textbf|textrm|textit|mathrm|mathbf|mbox|boxed|fbox)\s*\{([^{}]*)\}')
_NOISE = re.compile(r'\\(?:left|right|displaystyle|[!,;: ()\[\]])|\\?\$|~|\s')
_FRAC = re.compile(r'\\[dtc]frac(?![A-Za-z])')
_ROOT = re.compile(r'\\sqrt(\d)')
_THOUSANDS = re.compile(r'(?<=\d)(?:,|\{,\})(?=\d{3}(?!\d))')
_TRAILING = '.,;'
_NUMBER = re.compile(r'[+-]?(?:\d+\.?\d*|\.\d+)')
_FRACTION = re.compile(r'([+-]?)\\frac(?:\{([+-]?[\d.]+)\}|(\d))(?:\{([+-]?[\d.]+)\}|(\d))')
_SLASH = re.compile(r'([+-]?[\d.]+)/([+-]?[\d.]+)')
_SCIENTIFIC = re.compile(
  r'(?P<sign>[+-]?)(?:(?P<digits>[\d.]+)(?:[eE]|(?:\\times|\\cdot|\*)10\^)|10\^)(?:\{(?P<braced>[+-]?\d+)\}|(?P<power>[+-]?\d+))'
)
_PAIRS = {'(': ')', '[': ']', '{': '}'}


def clean_up(answer: str) -> str:
  """`answer` without blanks, dollar signs, text wrappers, thousands separators and closing punctuation.

  Commas between the entries of a tuple, an interval or a set are no separators of thousands.
  """
  text, before = answer.translate(_SIGNS), None
  while text != before:
    before, text = text, _WRAPPER.sub(r'\1', text)
  text = _without_thousands(text.replace(r'\left', '').replace(r'\right', ''))
  text = _NOISE.sub('', text)
  text = _ROOT.sub(r'\\sqrt{\1}', _FRAC.sub(r'\\frac', text))
  return text.rstrip(_TRAILING)


def _without_thousands(text: str) -> str:
  """Drops separators of thousands outside brackets; `{,}` is one anywhere."""
  if ',' not in text:
    return text
  kept, depth, end = [], 0, 0
  opening = {**dict.fromkeys('([', 1), **dict.fromkeys(')]', -1)}
  separators = {match.start(): match.end() for match in _THOUSANDS.finditer(text)}
  for at, character in enumerate(text):
    in_set = text.startswith((r'\{', r'\}'), at - 1) if at else False
    step = opening.get(character, 0) or (in_set and (1 if character == '{' else -1))
    depth += step
    if at in separators and (not depth or character == '{'):
      kept.append(text[end:at])
      end = separators[at]
  return ''.join([*kept, text[end:]])


def unwrapped(text: str) -> str:
  """`text` without parentheses around one thing: `(5)` gives `5`; `(1,2)` and `((5` are as they were."""
  while text.startswith('(') and text.endswith(')') and ',' not in text and _closes(text) == len(text) - 1:
    text = text[1:-1]
  return text


def _closes(text: str) -> int:
  """Where the parenthesis that the text starts with is closed; -1 if nowhere."""
  depth = 0
  for at, character in enumerate(text):
    depth += (character == '(') - (character == ')')
    if not depth:
      return at
  return -1


def rational(answer: str) -> Fraction | None:
  """The exact value of an integer, a decimal, a power of ten or a fraction; None for anything else."""
  if len(answer) > MAX_CHARS:
    return None
  text = unwrapped(clean_up(answer))
  if _NUMBER.fullmatch(text):
    return _exact(text)
  for pattern, value in ((_FRACTION, _fraction), (_SLASH, _quotient), (_SCIENTIFIC, _scientific)):
    match = pattern.fullmatch(text)
    if match:
      return value(match)
  return None


def _fraction(match: re.Match) -> Fraction | None:
  sign, above, one, below, other = match.groups()
  value = _divide(above or one, below or other)
  return -value if value is not None and sign == '-' else value


def _quotient(match: re.Match) -> Fraction | None:
  return _divide(match[1], match[2])


def _divide(above: str, below: str) -> Fraction | None:
  top, bottom = _exact(above), _exact(below)
  return top / bottom if top is not None and bottom else None


def _scientific(match: re.Match) -> Fraction | None:
  power = int(match['braced'] or match['power']) if len(match['braced'] or match['power']) <= 5 else MAX_DIGITS + 1
  digits = _exact(match['digits'] or '1')
  if digits is None or abs(power) > MAX_DIGITS:
    return None
  value = digits * Fraction(10) ** power
  return -value if match['sign'] == '-' else value


def _exact(number: str) -> Fraction | None:
  if len(number) > MAX_DIGITS or not _NUMBER.fullmatch(number):
    return None
  return Fraction(number)
