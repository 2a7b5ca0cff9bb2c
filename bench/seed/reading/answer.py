"""From the tokens of an answer to its statements and conditions, and what sentences say."""

import re

from bench.seed.nodes import ParseError
from bench.seed.reading.conditions import before_condition, is_condition, is_one_more
from bench.seed.reading.splitting import (
  between,
  commas_for_words,
  is_name,
  split_at,
  top_level,
  trim,
  without_words,
)
from bench.seed.reading.statement import CONTINUING, Statement, statement
from bench.seed.reading.tokens import Token, sign
from bench.seed.reading.units import is_unit_text

_VERBS = ('is', 'are')


def statements(tokens: list[Token]) -> list[Statement]:
  """The listed statements of an answer, without the conditions after a blank, a comma or a word."""
  found, _ = divided(tokens)
  return found


def divided(tokens: list[Token]) -> tuple[list[Statement], list[list[Token]]]:
  """(the statements of an answer, its conditions)."""
  result, rest = before_condition(commas_for_words(tokens))
  said = _predicate(result, rest)
  if said:
    return [said], []
  listed, _ = split_at(trim(result), {',', ';'})
  pieces = [trim(part) for piece in listed for part in _formulas_between_words(piece)]
  first, *others = pieces
  main = [statement(first)]
  conditions = []
  for piece in others:
    if not piece:
      raise ParseError('nothing between two commas')
    if conditions or is_condition(piece, main):
      conditions.append(piece)
    else:
      main.append(statement(piece))
  remarks, _ = split_at(rest, {',', ';', 'quad'})
  for piece in remarks:
    result, remark = before_condition(trim(piece))
    if is_one_more(result, main):
      main.append(statement(result))
      conditions.append(remark)
    else:
      conditions.append(trim(piece))
  return main, [condition for condition in conditions if condition]


def _predicate(subject: list[Token], words_after: list[Token]) -> Statement | None:
  """What a sentence says of a symbol, as in "A is Hermitian": the symbol equals the words. None for other answers."""
  name = without_words(subject)
  others = without_words(trim(words_after))
  if others or not name or not is_name(name):
    return None
  words = ' '.join(token.text.strip(' .') for token in words_after).split()
  if not words or words[0] not in _VERBS:
    return None
  return Statement([name, [Token('text', ' '.join(words))]], ['='])


def _formulas_between_words(tokens: list[Token]) -> list[list[Token]]:
  """The formulas of a piece with prose between them, which are no product; the piece itself if it has none."""
  prose = [place for place in top_level(tokens) if _is_prose(tokens[place])]
  pieces = map(trim, between(tokens, prose))
  formulas = [formula for formula in pieces if formula]
  if len(formulas) > 1 and all(map(_is_whole, formulas)):
    return formulas
  return [tokens]


def _is_whole(formula: list[Token]) -> bool:
  """Whether a formula neither starts nor ends with a sign that joins it to something, except its own sign in front."""
  first = formula[0]
  starts = first.kind in '+-' or sign(first) not in CONTINUING
  return starts and sign(formula[-1]) not in CONTINUING


def _is_prose(token: Token) -> bool:
  """Whether a text has a word that is no unit."""
  has_word = re.search(r'[A-Za-z]{2}', token.text)
  return token.kind == 'text' and bool(has_word) and not is_unit_text(token.text)
