"""Which part of an answer is a condition: what follows a wide blank, a word such as "where", or a comma."""

from bench.seed.nodes import words
from bench.seed.reading.atoms.symbols import SYMBOLS
from bench.seed.reading.splitting import (
  COMMA,
  EQUALS,
  ORDER,
  RELATIONS,
  WORDS,
  matching,
  split_at,
  top_level,
  trim,
  without_words,
)
from bench.seed.reading.statement import Statement
from bench.seed.reading.tokens import Token, sign
from bench.seed.reading.units import unit_before_words

_CONDITIONS = words(
  'for where if when with at as in provided assuming and or since because such given while per is are '
  'on the let unless only so'
)
_BEFORE_CONDITIONS = words('for where if when provided since because given while')  # as last words of a text
_JOINS = ('and', 'or')
_OF_CONDITIONS = ORDER | {'\\neq', '\\in', '\\ldots', '\\forall', 'text', '\\to'}
_LONGEST_NAME = 6  # tokens, such as n _ { r }
_GREEK = SYMBOLS - words('Delta partial cdot circ ldots infty prime')


def before_condition(tokens: list[Token]) -> tuple[list[Token], list[Token]]:
  """(the tokens up to the first blank, remark or bracketed range, without blanks; the tokens from there on)."""
  outside = set(top_level(tokens))
  outside.discard(0)
  kept = []
  rest = []
  before = COMMA
  for k, token in enumerate(tokens):
    is_outside = k in outside
    is_unit = before.kind == '/'  # the inch of lb/in
    if is_outside and not is_unit and _is_remark(token, before):
      rest = tokens[k:]
      break
    before = token
    if token.kind != 'quad':
      kept.append(token)
      continue
    following = tokens[k + 1 :]
    if is_outside and not _equates_more(following):
      rest = following
      break
    if is_outside:
      kept += _comma_between(kept, following)
  start = _range_start(kept)
  return kept[:start], kept[start:] + rest


def _comma_between(before: list[Token], after: list[Token]) -> list[Token]:
  """A comma, none if either side has one."""
  neighbours = before[-1:] + after[:1]
  if any(token.kind in (',', ';') for token in neighbours):
    return []
  return [COMMA]


def _equates_more(tokens: list[Token]) -> bool:
  """Whether one more equation follows a blank, as in a=1, \\quad b=2, and no remark."""
  pieces, _ = split_at(trim(tokens), {',', ';', 'quad'})
  first = trim(pieces[0])
  members, signs = split_at(first, RELATIONS)
  left = members[0]
  if not signs or not EQUALS.issuperset(signs):
    return False
  has_words = any(token.kind in WORDS for token in left)
  return bool(trim(left)) and not has_words


def _range_start(tokens: list[Token]) -> int:
  """Where a range in brackets starts that ends an equation, as in x=1 (y>0); the length without one."""
  count = len(tokens)
  for k in range(1, count):
    before = tokens[k - 1].kind
    if tokens[k].kind != '(' or before not in ('number', '}', ')'):
      continue
    is_last = matching(tokens[k:]) == count - 1 - k
    if is_last and _has_order(tokens[k + 1 : -1]):
      return k
  return count


def _has_order(tokens: list[Token]) -> bool:
  """Whether a sign such as < is outside brackets."""
  return any(sign(tokens[place]) in ORDER for place in top_level(tokens))


def _is_remark(token: Token, before: Token) -> bool:
  """Whether words start a condition, or are in parentheses; before: the token before them, perhaps of their unit."""
  if token.kind not in WORDS:
    return False
  prose = token.text.strip(' ,.;:()[]')
  if before.kind == 'number':
    _, prose = unit_before_words(prose)
  words_of_it = prose.lower().split()
  if not words_of_it:
    return False
  is_bracketed = token.text.lstrip().startswith('(')
  if is_bracketed or words_of_it[-1] in _BEFORE_CONDITIONS:
    return True
  if words_of_it[0] in _JOINS:
    return _BEFORE_CONDITIONS.issuperset(words_of_it[1:2])
  return words_of_it[0] in _CONDITIONS


def is_condition(piece: list[Token], main: list[Statement]) -> bool:
  """Whether the piece after a comma is a condition: words, a range, or a value of one of the answer's symbols."""
  signs = {sign(token) for token in piece}
  if _gives_another_value(piece, main):
    return False
  if signs & ORDER and 'text' not in signs and _is_new_quantity(piece, main):
    return False
  if signs & _OF_CONDITIONS:
    return True
  parts, relations = split_at(piece, RELATIONS)
  if piece[0].kind == 'word':
    return not relations or not _is_named_function(parts[0])
  return bool(relations) and _contains(main[-1].members[-1], parts[0])


def _gives_another_value(piece: list[Token], main: list[Statement]) -> bool:
  """Whether a piece gives the name of the result before it one more value: min at x = 4 after max at x = 2."""
  members, signs = split_at(without_words(piece), EQUALS)
  before = main[-1]
  if not signs or not before.signs:
    return False
  return members[0] == without_words(before.members[0])


def _contains(tokens: list[Token], part: list[Token]) -> bool:
  """Whether `part` is a name that occurs in the tokens."""
  length = len(part)
  if not 0 < length <= _LONGEST_NAME:
    return False
  starts = range(len(tokens) - length + 1)
  return any(tokens[k : k + length] == part for k in starts)


def _is_new_quantity(piece: list[Token], main: list[Statement]) -> bool:
  """Whether an inequality is one more result: its symbols are not those of the relations before it."""
  known = set()
  for part in main:
    if not part.signs:
      return False
    for tokens in part.members:
      known.update(tokens)
  symbols = {token for token in piece if token.kind == 'letter' or token.text in _GREEK}
  return bool(symbols) and symbols.isdisjoint(known)


def _is_named_function(tokens: list[Token]) -> bool:
  """Whether the tokens are an upright name with arguments, such as Cov(X, Y)."""
  if len(tokens) < 3 or tokens[1].kind != '(':
    return False
  name = tokens[0].text
  return name.lower() not in _CONDITIONS


def is_one_more(tokens: list[Token], main: list[Statement]) -> bool:
  """Whether tokens after a condition are one more result: E_2 = … after E_1 = … for n = 1."""
  members, signs = split_at(tokens, EQUALS)
  left = members[0]
  if left and left[0].text.split()[:1] == ['is']:  # the sentence continues: F = 1 is one state, and F = 0 another
    left = without_words(left)
  first = main[0]
  if not signs or not left or not first.signs:
    return False
  last = main[-1].members[-1]
  if _contains(last, left):  # it gives a value
    return False
  return left[:1] == without_words(first.members[0])[:1]
