"""Normal form of the spellings of a number, and the exact value of a rational one."""

import re
from fractions import Fraction

MAX_CHARS = 2_000
MAX_DIGITS = 400

# Unicode minus and multiplication signs to LaTeX.
_SIGNS = str.maketrans({'−': '-', '–': '-', '﹣': '-', '-': '-', '×': r'\times ', '·': r'\cdot '})
_WRAPPER = re.compile(r'\\(?:text|textbf|textrm|textit|mathrm|mathbf|mbox|boxed|fbox)\s*\{([^{}]*)\}')
_NOISE = re.compile(r'\\(?:left|right|displaystyle|[!,;: ()\[\]])|\\?\$|~|\s')
_FRAC = re.compile(r'\\[dtc]frac(?![A-Za-z])')
_ROOT = re.compile(r'\\sqrt(\d)')
_THOUSANDS = re.compile(r'(?<=\d)(?:,|\{,\})(?:\\!)*(?=\d{3}(?!\d))')
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
  text = _unwrap_text(answer.translate(_SIGNS))
  text = _without_thousands(text.replace(r'\left', '').replace(r'\right', ''))
  text = _NOISE.sub('', text)
  text = _FRAC.sub(r'\\frac', text)
  text = _ROOT.sub(r'\\sqrt{\1}', text)
  return text.rstrip(_TRAILING)


def _unwrap_text(text: str) -> str:
  """`text` without wrappers such as `\\text{…}`, nested ones included."""
  before = None
  while text != before:
    before = text
    text = _WRAPPER.sub(r'\1', text)
  return text


def _without_thousands(text: str) -> str:
  """Drops separators of thousands outside brackets; `{,}` is one anywhere."""
  if ',' not in text:
    return text
  kept = []
  depth = end = 0
  separators = {match.start(): match.end() for match in _THOUSANDS.finditer(text)}
  for at, character in enumerate(text):
    depth += _depth_step(text, at)
    if at in separators and (depth == 0 or character == '{'):
      kept.append(text[end:at])
      end = separators[at]
  return ''.join([*kept, text[end:]])


def _depth_step(text: str, at: int) -> int:
  """1 where a parenthesis, a bracket or a set `\\{` opens, -1 where one closes, else 0."""
  character = text[at]
  if character in '([':
    return 1
  if character in ')]':
    return -1
  is_escaped = at > 0 and text[at - 1] == '\\'
  if is_escaped and character in '{}':
    if character == '{':
      return 1
    return -1
  return 0


def unwrapped(text: str) -> str:
  """`text` without parentheses around a single entry: `(5)` gives `5`; `(1,2)` and `((5` are unchanged."""
  while text.startswith('(') and text.endswith(')') and ',' not in text and _closes(text) == len(text) - 1:
    text = text[1:-1]
  return text


def _closes(text: str) -> int:
  """The index that closes the parenthesis at the start of the text; -1 if none does."""
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
  sign, above, above_digit, below, below_digit = match.groups()
  value = _divide(above or above_digit, below or below_digit)
  if value is None:
    return None
  if sign == '-':
    return -value
  return value


def _quotient(match: re.Match) -> Fraction | None:
  return _divide(match[1], match[2])


def _divide(above: str, below: str) -> Fraction | None:
  top = _exact(above)
  bottom = _exact(below)
  if top is None or not bottom:
    return None
  return top / bottom


def _scientific(match: re.Match) -> Fraction | None:
  written = match['braced'] or match['power']
  digits = _exact(match['digits'] or '1')
  if digits is None or len(written) > 5 or abs(int(written)) > MAX_DIGITS:
    return None
  value = digits * Fraction(10) ** int(written)
  if match['sign'] == '-':
    return -value
  return value


def _exact(number: str) -> Fraction | None:
  if len(number) > MAX_DIGITS or not _NUMBER.fullmatch(number):
    return None
  return Fraction(number)
