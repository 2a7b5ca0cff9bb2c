"""Words, labels and conditions next to a formula that may decide an answer."""

import re
from typing import NamedTuple

from bench.seed.nodes import Node, SeedError, names, words
from bench.seed.reading.answer import divided
from bench.seed.reading.parser import Reading
from bench.seed.reading.scanning.spelling import words_as_text
from bench.seed.reading.splitting import MIRROR_IMAGES, RELATIONS, is_name, matching, split_at, trim
from bench.seed.reading.statement import member, tokens_of
from bench.seed.reading.tokens import Token, label
from bench.seed.reading.units import lookup

_TEXT = re.compile(r'\\(?:text|textrm|textbf|textit|mathrm|mbox)\s*\{([^{}]*)\}')
_STEMS = words(
  'increas decreas unchanged constant larger smaller greater less higher lower '
  'positive negative yes no not true false odd even real virtual stable unstable '
  'upward downward up down left right inward outward north south east west '
  'clockwise counterclockwise anticlockwise attractive repulsive allowed forbidden '
  'transparent absorb absorption possible impossible elastic inelastic violat converg diverg'
)
_ENDINGS = 'es|ed|ing|ent|ence|e|s'
_WORD = re.compile(rf'\b({"|".join(sorted(_STEMS, key=len, reverse=True))})(?:{_ENDINGS})?\b', re.IGNORECASE)
_SAME = {'anticlockwise': 'counterclockwise', 'up': 'upward', 'down': 'downward', 'absorption': 'absorb'}
_PLURAL = re.compile(r'(?:[a-z]+ ){0,2}[a-z]{2,}[a-rt-z]s')
_LABEL = re.compile(r'\s*\$?\s*(?:\\(?:text|textrm|mathrm|mbox)\s*\{\s*)?([A-Z][a-z]?)\s*\}?\s*:(?!=)')


def deciding_words(text: str) -> tuple[str, ...]:
  """The deciding words in the text commands of a LaTeX answer and between its formulas, in order, without endings."""
  found = []
  for part in _TEXT.findall(words_as_text(text)):
    found += [match[1].lower() for match in _WORD.finditer(part)]
  return tuple(_SAME.get(word, word) for word in found)


def contradict(reference: str, prediction: str) -> bool:
  """Whether both answers have deciding words, or a label such as `He:`, and not the same ones."""
  return _differ(deciding_words(reference), deciding_words(prediction)) or _differ(
    _label(reference), _label(prediction)
  )


def _differ(wanted, given) -> bool:
  return bool(wanted and given) and wanted != given


def _label(text: str) -> str | None:
  """The symbol before a colon at the start of an answer, as of an element; headings of more letters are none."""
  found = _LABEL.match(text)
  return found and found[1]


def counted(tokens: list[Token]) -> str | None:
  """The plural noun after a number at the end of an answer, as in 5 digits; None if there is none or it is a unit.

  A singular may be any other word, such as "total" or "exactly".
  """
  if len(tokens) < 2 or tokens[-1].kind not in ('text', 'word') or tokens[-2].kind not in ('number', '}', ')'):
    return None
  noun = tokens[-1].text.strip(' .').lower()
  last = noun.split()[-1:]
  is_plural = _PLURAL.fullmatch(noun) is not None
  if not is_plural or any(map(lookup, last)):
    return None
  return noun


class Fact(NamedTuple):
  """A condition of an answer: the name it is about, how they are related (`=`, `<`, `>` or nothing), and what to."""

  name: tuple[str, ...]
  sign: str
  value: Node


_SIGNS = {'=': '=', '\\approx': '=', '\\simeq': '=', '<': '<', '\\leq': '<', '>': '>', '\\geq': '>'}


def facts(text: str, reading: Reading) -> list[Fact]:
  """What the conditions of an answer say in formulas: values without symbols, ranges, states.

  Nothing of enumerations such as n = 1, 2, … and of conditions that cannot be read.
  """
  try:
    return _facts(text, reading)
  except SeedError:
    return []


def _facts(text: str, reading: Reading) -> list[Fact]:
  _, conditions = divided(tokens_of(text, reading))
  found = []
  for condition in conditions:
    formula = _formula(condition)
    members, signs = split_at(formula, RELATIONS)
    is_worded = len(formula) < len(condition)
    if not signs and not is_worded:
      return []
    if signs:
      for left, what, right in zip(members, signs, members[1:]):
        found += _about(left, what, right, reading)
    elif formula and _words(condition) == 1:
      found.append(Fact((), '', member(formula, reading)))
  return found


def _formula(condition: list[Token]) -> list[Token]:
  """A condition without its words and without brackets around the rest."""
  formula = trim([token for token in condition if token.kind not in ('text', 'word', 'quad')])
  if formula and formula[0].kind == '(' and matching(formula) == len(formula) - 1:
    return formula[1:-1]
  return formula


def _words(condition: list[Token]) -> int:
  texts = [token.text for token in condition if token.kind in ('text', 'word')]
  return len(' '.join(texts).split())


def _about(left: list[Token], what: str, right: list[Token], reading: Reading) -> list[Fact]:
  """What `left what right` says about each side that is a name."""
  found = []
  if what in _SIGNS and _is_symbol(left):
    found.append(Fact(label(left), _SIGNS[what], member(right, reading)))
  mirrored = MIRROR_IMAGES.get(what)
  if mirrored in _SIGNS and _is_symbol(right):
    found.append(Fact(label(right), _SIGNS[mirrored], member(left, reading)))
  return [fact for fact in found if fact.sign != '=' or not names(fact.value)]  # a definition has many forms


def _is_symbol(tokens: list[Token]) -> bool:
  return bool(tokens) and tokens[0].kind in ('letter', 'command') and is_name(tokens)
