"""Answers of mathematics outputs: extraction, normal form and comparison."""

import re
from collections.abc import Callable
from fractions import Fraction

from rl.rewards.extract import boxed_answer, conclusion, final_answer, plain, strip_thoughts
from rl.rewards.guards.limited import Late
from rl.rewards.numbers import MAX_CHARS, clean_up, rational, unwrapped

_NEXT_SENTENCE = re.compile(r'\.\s+(?=[A-Z])')
_FORMULA = re.compile(r'\$\$([^$]+)\$\$|(?<!\\)\$([^$]+)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]')
_MORE = re.compile(r'[$\\\d]|\b(?:or|and)\b')
_DEGREES = re.compile(r'(?:\^\{?\\circ\}?|°|\\degree|(?:\\text\s*\{)?\s*degrees?\}?)\s*$')
_UNIT = re.compile(
  r'(?:\\[,; ]|~|\s)*(?:\\(?:text|mbox|textrm)\s*\{[^{}]*\}|\\mathrm\s*\{[^{}]{2,}\}|(?<=\s)[A-Za-z]{2,})'
  r'(?:\^\{?-?\d\}?)?\s*\.?\s*$'
)
_RELATION = re.compile(r'[<>≤≥≠]|\\(?:leq?|geq?|neq?|approx|equiv|pm)\b|:=|,')
_PERCENT = re.compile(r'(?:\\[,; ]|~|\s)*(?:\\?%|(?:\\text\s*\{)?\s*(?:percent|per cent)\}?)[\s$.]*$')
_SCALES = re.compile(r'hundred|thousand|million|billion|trillion|dozen|percent|\bpi\b|\bor\b|\band\b', re.IGNORECASE)
_NUMBERS = re.compile(r'(?<![\w.])-?\d[\d,]*(?:\.\d+)?')
_HOPE = re.compile(r'\.?\s*I hope (?:it|this) is correct\.?$', re.IGNORECASE)
_WORDS = re.compile(r'(?<![\\A-Za-z])[A-Za-z]{2,}|\\(?:text|mbox)\b')
_RATIO = re.compile(r'\d\s*:\s*\d')


def extract(text: str, *, finished: bool = True, last_number: bool = False) -> str | None:
  """The answer of a whole output; None without one.

  The answer that the text after the thoughts marks (`rl.rewards.extract.final_answer`); else that text itself if it is
  an answer and nothing more; else the last box anywhere; else, only with `last_number`, the last number. A truncated
  output (`finished` false) has an answer only if it wrote a complete box.
  """
  if not finished:
    return boxed_answer(text)
  answer = final_answer(text)
  if answer is not None and answer.strip():
    return first_statement(answer)
  answer = only_answer(text)
  if answer is None:
    answer = boxed_answer(text)
  if answer is not None or not last_number:
    return answer
  numbers = _NUMBERS.findall(strip_thoughts(text))
  if numbers:
    return numbers[-1]
  return None


def only_answer(text: str) -> str | None:
  """The text after the thoughts if it is one line without words, such as `n = 73`; None for any other output."""
  said = _HOPE.sub('', conclusion(text).strip())
  is_line = '\n' not in said and len(said) <= MAX_CHARS
  if not said or not is_line or _NEXT_SENTENCE.search(said):
    return None
  answer = first_statement(said.strip('$').strip())
  if _WORDS.search(bare(answer)):
    return None
  return answer


def first_statement(answer: str) -> str:
  """`answer` without emphasis, following sentences, and the words after a formula at its start."""
  first = _NEXT_SENTENCE.split(answer, maxsplit=1)[0]
  balanced = first.count('{') == first.count('}')
  text = plain(first if balanced else answer)
  formula = _FORMULA.match(text)
  if formula and not _MORE.search(text, formula.end()):
    inside = formula[formula.lastindex]
    return inside.strip()
  return text


def value_side(answer: str) -> str:
  """The last side of a chain of equalities, without degrees: `70 + n = 73^\\circ` gives `73`."""
  side = answer
  if not _RELATION.search(answer):
    side = answer.rpartition('=')[2]
  return _DEGREES.sub('', side.strip().strip('$').strip())


def bare(answer: str) -> str:
  """`value_side` without a unit after a number: `73\\text{ cm}` gives `73`."""
  side = value_side(answer)
  unit = _UNIT.search(side)
  if unit is None or _SCALES.search(unit[0]):
    return side
  number = side[: unit.start()]
  if rational(number) is not None:
    return number
  return side


def canonical(answer: str) -> str:
  """One text for all spellings of a rational number, else the cleaned-up text; the key of a majority vote."""
  value = _read(answer, value_side)
  if value is not None:
    return str(value)
  return clean_up(answer)


def _read(answer: str, part: Callable[[str], str]) -> Fraction | None:
  """The exact value of `answer`, else of a part of it."""
  value = rational(answer)
  if value is not None or len(answer) > MAX_CHARS:
    return value
  return rational(part(answer))


def compare(gold: str, found: str, symbolic: Callable[[str, str], bool] | None = None) -> tuple[bool, str]:
  """(whether two answers are equal, 'ok' or why they could not be compared).

  Rational numbers are compared exactly, sets without regard to order, other answers as cleaned-up text and then by
  `symbolic`, which is `symbolically_equal` under a limit. Ratios and times of day, such as 10:10, are text.
  """
  if len(found) > MAX_CHARS:
    return False, 'too_large'
  values = _numbers_of(gold, found)
  if values:
    return values[0] == values[1], 'ok'
  if _same_percentage(gold, found):
    return True, 'ok'
  if _text(gold) == _text(found):
    return True, 'ok'
  if symbolic is None or _RATIO.search(gold) or _RATIO.search(found):
    return False, 'ok'
  try:
    return symbolic(gold, found), 'ok'
  except Late:
    return False, 'timeout'
  except RuntimeError:
    return False, 'unsupported'


def _text(answer: str) -> str | frozenset[str]:
  """The comparable form of an answer that is no number: its cleaned-up text, or the entries of a set."""
  text = unwrapped(clean_up(answer))
  is_set = text.startswith(r'\{') and text.endswith(r'\}') and text.count(r'\{') == 1
  if is_set:
    entries = text[2:-2].split(',')
    return frozenset(map(canonical, entries))
  return text


def _numbers_of(gold: str, found: str) -> tuple[Fraction, Fraction] | None:
  """Both answers as numbers; None unless both are.

  Two equations are no numbers (`x = 3` is not `y = 3`), and a unit is dropped only against a plain number.
  """
  if '=' in gold and '=' in found:
    return None
  has_plain_number = rational(gold) is not None or rational(found) is not None
  part = bare if has_plain_number else value_side
  expected = _read(gold, part)
  value = _read(found, part)
  if expected is None or value is None:
    return None
  return expected, value


def _same_percentage(gold: str, found: str) -> bool:
  """Whether one answer is a percentage and the other its number, 73, or its value, 0.73."""
  if bool(_PERCENT.search(gold)) == bool(_PERCENT.search(found)):
    return False
  expected, value = (_read(_PERCENT.sub('', text), bare) for text in (gold, found))
  if expected is None or value is None:
    return False
  percentage, number = (expected, value) if _PERCENT.search(gold) else (value, expected)
  return number in (percentage, percentage / 100)


def symbolically_equal(gold: str, answer: str) -> bool:
  """Math-Verify's verdict on two LaTeX answers: the gold decides the kind, floats are compared at 6 digits.

  Its digits are decimal places, which makes all tiny numbers equal, so numbers must also agree in relative terms.
  Only its LaTeX reader is used. Its own time limit is off, so call it through `rl.rewards.guards.limited.Limited`.
  """
  import math_verify

  config = (math_verify.LatexExtractionConfig(),)

  def read(text: str) -> list:
    return math_verify.parse(f'${text}$', config, parsing_timeout=None, fallback_mode='no_fallback')

  left = read(gold)
  right = read(answer)
  is_equal = math_verify.verify(left, right, float_rounding=6, strict=True, timeout_seconds=None)
  return bool(is_equal) and _near(left, right)


def _near(left: list, right: list) -> bool:
  """Whether two parsed answers that are plain numbers agree to 6 significant digits; True for other kinds."""
  values = []
  for parsed in (left, right):
    number = parsed[0] if parsed else None
    is_finite_number = getattr(number, 'is_number', False) and getattr(number, 'is_finite', False)
    if not is_finite_number:
      return True
    values.append(complex(number.evalf()))
  largest = max(map(abs, values))
  return abs(values[0] - values[1]) <= 1e-6 * largest


def warm_up() -> None:
  """Loads the comparison and its grammar, which takes seconds, before answers are timed."""
  symbolically_equal(r'\frac{1}{2}', '0.5')
