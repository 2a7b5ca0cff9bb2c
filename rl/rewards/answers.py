"""The answer of a mathematics output: found, brought to one form, and compared."""

import re
from collections.abc import Callable
from fractions import Fraction

from rl.rewards.extract import boxed_answer, final_answer, plain, strip_thoughts
from rl.rewards.limited import Late

MAX_CHARS = 2_000
MAX_DIGITS = 400

_NEXT_SENTENCE = re.compile(r'\.\s+(?=[A-Z])')
_FORMULA = re.compile(r'\$\$([^$]+)\$\$|(?<!\\)\$([^$]+)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]')
_MORE = re.compile(r'[$\\\d]|\b(?:or|and)\b')
_DEGREES = re.compile(r'(?:\^\{?\\circ\}?|°|\\degree|(?:\\text\s*\{)?\s*degrees?\}?)\s*$')
_UNIT = re.compile(
  r'(?:\\[,; ]|~|\s)*(?:\\(?:text|mbox|textrm)\s*\{[^{}]*\}|\\mathrm\s*\{[^{}]{2,}\}|(?<=\s)[A-Za-z]{2,})'
  r'(?:\^\{?-?\d\}?)?\s*\.?\s*$'
)
_RELATION = re.compile(r'[<>≤≥≠]|\\(?:leq?|geq?|neq?|approx|equiv|pm)\b|:=|,')
_SCALES = re.compile(r'hundred|thousand|million|billion|trillion|dozen|percent|\bpi\b|\bor\b|\band\b', re.IGNORECASE)
_NUMBERS = re.compile(r'(?<![\w.])-?\d[\d,]*(?:\.\d+)?')
_WRAPPER = re.compile(r'\\(?:text|textbf|textrm|textit|mathrm|mathbf|mbox|boxed|fbox)\s*\{([^{}]*)\}')
_NOISE = re.compile(r'\\(?:left|right|displaystyle|[!,;: ()\[\]])|\\?\$|~|\s')
_THOUSANDS = re.compile(r'(?<=\d)(?:,|\{,\})(?=\d{3}(?!\d))')
_NUMBER = re.compile(r'[+-]?(?:\d+\.?\d*|\.\d+)')
_FRACTION = re.compile(r'([+-]?)\\[dtc]?frac(?:\{([+-]?[\d.]+)\}|(\d))(?:\{([+-]?[\d.]+)\}|(\d))')
_SLASH = re.compile(r'([+-]?[\d.]+)/([+-]?[\d.]+)')


def extract(text: str, *, finished: bool = True, last_number: bool = False) -> str | None:
  """The answer of a whole output; None without one.

  What the text after the thoughts marks as its answer (`rl.rewards.extract.final_answer`); else the last box
  anywhere; else, only if asked for, the last number. A cut-off output (`finished` false) has an answer only if it
  wrote a complete box.
  """
  if not finished:
    return boxed_answer(text)
  answer = final_answer(text)
  if answer is not None and answer.strip():
    return first_statement(answer)
  answer = boxed_answer(text)
  if answer is not None or not last_number:
    return answer
  numbers = _NUMBERS.findall(strip_thoughts(text))
  return numbers[-1] if numbers else None


def first_statement(answer: str) -> str:
  """`answer` without emphasis, a sentence that follows it, and words after a formula that it begins with."""
  first = _NEXT_SENTENCE.split(answer, maxsplit=1)[0]
  balanced = first.count('{') == first.count('}')
  text = plain(first if balanced else answer)
  formula = _FORMULA.match(text)
  if formula and not _MORE.search(text, formula.end()):
    return next(part for part in formula.groups() if part is not None).strip()
  return text


def clean_up(answer: str) -> str:
  """`answer` without blanks, dollar signs, text wrappers, thousands separators and a trailing full stop."""
  text, before = answer, None
  while text != before:
    before, text = text, _WRAPPER.sub(r'\1', text)
  text = _NOISE.sub('', text)
  return _THOUSANDS.sub('', text).rstrip('.')


def rational(answer: str) -> Fraction | None:
  """The exact value of an integer, a decimal or a fraction of them; None for anything else."""
  if len(answer) > MAX_CHARS:
    return None
  text = clean_up(answer).strip('()')
  if _NUMBER.fullmatch(text):
    return _exact(text)
  if match := _FRACTION.fullmatch(text):
    sign, above, one, below, other = match.groups()
    top, bottom = _exact(above or one), _exact(below or other)
    value = top / bottom if top is not None and bottom else None
    return -value if value is not None and sign == '-' else value
  if match := _SLASH.fullmatch(text):
    top, bottom = _exact(match[1]), _exact(match[2])
    return top / bottom if top is not None and bottom else None
  return None


def _exact(number: str) -> Fraction | None:
  if len(number) > MAX_DIGITS or not _NUMBER.fullmatch(number):
    return None
  return Fraction(number)


def value_side(answer: str) -> str:
  """`answer` without degrees and without what a chain of equalities starts with: `70 + n = 73^\\circ` gives `73`."""
  side = answer.rpartition('=')[2] if not _RELATION.search(answer) else answer
  return _DEGREES.sub('', side.strip().strip('$').strip())


def bare(answer: str) -> str:
  """`value_side` without a unit after a number: `73\\text{ cm}` gives `73`."""
  side = value_side(answer)
  unit = _UNIT.search(side)
  if unit and not _SCALES.search(unit[0]) and rational(side[: unit.start()]) is not None:
    return side[: unit.start()]
  return side


def canonical(answer: str) -> str:
  """One text for all spellings of a rational number, else the cleaned-up text; a majority vote counts it."""
  value = _read(answer, value_side)
  return str(value) if value is not None else clean_up(answer)


def _read(answer: str, part: Callable[[str], str]) -> Fraction | None:
  """The exact value of `answer`, else of a part of it."""
  value = rational(answer)
  return value if value is not None or len(answer) > MAX_CHARS else rational(part(answer))


def compare(gold: str, found: str, symbolic: Callable[[str, str], bool] | None = None) -> tuple[bool, str]:
  """(whether two answers are equal, 'ok' or why they could not be compared).

  Rational numbers exactly, else as cleaned-up text, else by `symbolic`, which is `symbolically_equal` under a limit.
  """
  if len(found) > MAX_CHARS:
    return False, 'too_large'
  values = _numbers_of(gold, found)
  if values:
    return values[0] == values[1], 'ok'
  if clean_up(gold) == clean_up(found):
    return True, 'ok'
  if symbolic is None:
    return False, 'ok'
  try:
    return symbolic(gold, found), 'ok'
  except Late:
    return False, 'timeout'
  except RuntimeError:
    return False, 'unsupported'


def _numbers_of(gold: str, found: str) -> tuple[Fraction, Fraction] | None:
  """Both answers as numbers; None unless both are.

  Two equations are no numbers (`x = 3` is not `y = 3`), and a unit is dropped only against a plain number.
  """
  if '=' in gold and '=' in found:
    return None
  plain_number = rational(gold) is not None or rational(found) is not None
  values = [_read(answer, bare if plain_number else value_side) for answer in (gold, found)]
  return None if None in values else (values[0], values[1])


def symbolically_equal(gold: str, answer: str) -> bool:
  """Math-Verify's verdict on two LaTeX answers: the gold decides the kind, floats are compared at 6 digits.

  Only its LaTeX reader is used. It has no limit of its own here, so call it through `rl.rewards.limited.Limited`.
  """
  import math_verify

  config = (math_verify.LatexExtractionConfig(),)
  read = lambda text: math_verify.parse(f'${text}$', config, parsing_timeout=None, fallback_mode='no_fallback')
  return bool(math_verify.verify(read(gold), read(answer), float_rounding=6, strict=True, timeout_seconds=None))


def warm_up() -> None:
  """Loads the comparison and its grammar, which takes seconds, before any answer waits for it."""
  symbolically_equal(r'\frac{1}{2}', '0.5')
