"""The answer of a mathematics output: found, brought to one form, and compared."""

import re
from collections.abc import Callable
from fractions import Fraction

from rl.rewards.extract import boxed_answer, strip_thoughts
from rl.rewards.limited import Late

MAX_CHARS = 2_000
MAX_DIGITS = 400

_SENTENCE = re.compile(r'answer\s*(?:is|:)[ \t]*:?[ \t]*([^\n]*)', re.IGNORECASE)
_NUMBERS = re.compile(r'(?<![\w.])-?\d[\d,]*(?:\.\d+)?')
_WRAPPER = re.compile(r'\\(?:text|textbf|textrm|textit|mathrm|mathbf|mbox|boxed|fbox)\s*\{([^{}]*)\}')
_NOISE = re.compile(r'\\(?:left|right|displaystyle|[!,;: ])|\\?\$|~|\s')
_THOUSANDS = re.compile(r'(?<=\d)(?:,|\{,\})(?=\d{3}(?!\d))')
_NUMBER = re.compile(r'[+-]?(?:\d+\.?\d*|\.\d+)')
_FRACTION = re.compile(r'([+-]?)\\[dtc]?frac(?:\{([+-]?[\d.]+)\}|(\d))(?:\{([+-]?[\d.]+)\}|(\d))')
_SLASH = re.compile(r'([+-]?[\d.]+)/([+-]?[\d.]+)')


def extract(text: str, *, finished: bool = True, last_number: bool = False) -> str | None:
  """The answer of a whole output; None without one.

  The last balanced box after the thoughts; else the last box anywhere; else what follows the last "answer is"
  or "answer:" on its line; else, only if asked for, the last number. A cut-off output (`finished` false) has
  an answer only if it wrote a complete box.
  """
  answer = boxed_answer(text)
  if answer is not None or not finished:
    return answer
  said = list(_SENTENCE.finditer(strip_thoughts(text)))
  if said and said[-1][1].strip():
    return said[-1][1].strip()
  if last_number:
    numbers = _NUMBERS.findall(strip_thoughts(text))
    return numbers[-1] if numbers else None
  return None


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


def canonical(answer: str) -> str:
  """One text for all spellings of a rational number, else the cleaned-up text; a majority vote counts it."""
  value = rational(answer)
  return str(value) if value is not None else clean_up(answer)


def compare(gold: str, found: str, symbolic: Callable[[str, str], bool] | None = None) -> tuple[bool, str]:
  """(whether two answers are equal, 'ok' or why they could not be compared).

  Rational numbers exactly, else as cleaned-up text, else by `symbolic`, which is `symbolically_equal` under a limit.
  """
  if len(found) > MAX_CHARS:
    return False, 'too_large'
  ours, theirs = rational(gold), rational(found)
  if ours is not None and theirs is not None:
    return ours == theirs, 'ok'
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
