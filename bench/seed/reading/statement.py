"""From an answer's tokens to the statements to score: conditions removed, lists and relations split."""

import dataclasses

from bench.seed.nodes import Node, ParseError, symbol, words
from bench.seed.reading.atoms.symbols import SYMBOLS
from bench.seed.reading.parser import Reading, parse_tokens
from bench.seed.reading.splitting import (
  COMMA,
  EQUALS,
  ORDER,
  RELATIONS,
  WORDS,
  commas_for_words,
  matching,
  relation,
  rounded,
  split_at,
  top_level,
  trim,
  unwrap,
)
from bench.seed.reading.tokens import Token, sign, tokenize

# Signs that continue the row above them.
_CONTINUING = RELATIONS | {'+', '-', '*', '/', '\\pm', '\\mp', '\\times', '\\cdot', ',', ';', 'row', 'end', '\\implies'}
_WRAPPERS = words('equation align aligned gathered gather split multline eqnarray displaymath math')
_CONDITIONS = words(
  'for where if when with at as in provided assuming and or since because such given while per is are '
  'on the let unless only so'
)
_CONSTANT = words('constant const')

_OF_CONDITIONS = ORDER | {'\\neq', '\\in', '\\ldots', '\\forall', 'text', '\\to'}
_INFIX = frozenset(('\\over', '\\choose'))

_LONGEST_NAME = 6  # tokens, such as n _ { r }
_GREEK = SYMBOLS - words('Delta partial cdot circ ldots infty prime')


@dataclasses.dataclass(frozen=True)
class Statement:
  """Members joined by relation signs: `members` has one more entry than `signs`."""

  members: list[list[Token]]
  signs: list[str]

  @property
  def inequality(self) -> bool:
    return any(what not in EQUALS for what in self.signs)


def tokens_of(text: str, reading: Reading) -> list[Token]:
  """Tokens of an answer without display environments, alignment marks and closing punctuation."""
  tokens = tokenize(text, units=reading.units)
  kept = [token for token in tokens if not _is_wrapper(token)]
  has_wrapper = len(kept) < len(tokens)
  has_environment = any(token.kind == 'begin' for token in kept)
  if has_wrapper and not has_environment:
    kept = _joined_rows(kept)
  has_bullet = bool(kept) and sign(kept[0]) == '\\cdot'
  if has_bullet:
    kept = kept[1:]
  return unwrap(trim(rounded(kept)))


def _is_wrapper(token: Token) -> bool:
  """Whether the token begins or ends a display environment."""
  return token.kind in ('begin', 'end') and token.text in _WRAPPERS


def _joined_rows(tokens: list[Token]) -> list[Token]:
  """Aligned rows as one list: a row that starts with a sign continues the last one, others follow a comma."""
  plain = [token for token in tokens if token.kind != '&']
  following = [*plain[1:], Token('end', '')]
  joined = []
  for token, after in zip(plain, following):
    if token.kind != 'row':
      joined.append(token)
      continue
    continues = sign(after) in _CONTINUING
    has_comma = not joined or joined[-1].kind in ',;'
    if not continues and not has_comma:
      joined.append(COMMA)
  return joined


def statement(tokens: list[Token]) -> Statement:
  """A piece split at its relation signs; after an arrow of implication only the conclusion counts."""
  conclusions, _ = split_at(tokens, {'\\implies'})
  members, signs = split_at(_unlabelled(conclusions[-1]), RELATIONS)
  return Statement(members, signs)


def _unlabelled(tokens: list[Token]) -> list[Token]:
  """Tokens without the colon of a definition and without words that announce the answer."""
  kinds = [token.kind for token in tokens]
  if ':' not in kinds:
    return tokens
  colon = kinds.index(':')
  is_announced = colon > 0 and WORDS.issuperset(kinds[:colon])
  if is_announced:
    tokens = tokens[colon + 1 :]
  following = [*tokens[1:], Token('end', '')]
  kept = []
  for token, after in zip(tokens, following):
    is_definition = token.kind == ':' and after.kind in ('=', 'end')
    if not is_definition:
      kept.append(token)
  return kept


def statements(tokens: list[Token]) -> list[Statement]:
  """The listed statements of an answer, without the conditions after a blank, a comma or a word."""
  found, _ = divided(tokens)
  return found


def divided(tokens: list[Token]) -> tuple[list[Statement], list[list[Token]]]:
  """(the statements of an answer, its conditions)."""
  result, rest = _before_condition(commas_for_words(tokens))
  pieces, _ = split_at(trim(result), {',', ';'})
  first, *others = map(trim, pieces)
  main = [statement(first)]
  conditions = []
  for piece in others:
    if not piece:
      raise ParseError('nothing between two commas')
    if conditions or _is_condition(piece, main):
      conditions.append(piece)
    else:
      main.append(statement(piece))
  for piece in split_at(rest, {',', ';', 'quad'})[0]:
    result, remark = _before_condition(trim(piece))
    if _is_one_more(result, main):
      main.append(statement(result))
      conditions.append(remark)
    else:
      conditions.append(trim(piece))
  return main, [condition for condition in conditions if condition]


def _is_one_more(tokens: list[Token], main: list[Statement]) -> bool:
  """Whether tokens after a condition are one more result: E_2 = … after E_1 = … for n = 1."""
  members, signs = split_at(tokens, EQUALS)
  left = members[0]
  first = main[0]
  if not signs or not left or not first.signs:
    return False
  last = main[-1].members[-1]
  if _contains(last, left):  # it gives a value
    return False
  named = [token for token in first.members[0] if token.kind not in WORDS]
  return left[:1] == named[:1]


def _before_condition(tokens: list[Token]) -> tuple[list[Token], list[Token]]:
  """(the tokens up to the first blank, remark or bracketed range, without blanks; the tokens from there on)."""
  outside = set(top_level(tokens))
  outside.discard(0)
  kept = []
  rest = []
  before = COMMA
  for k, token in enumerate(tokens):
    is_outside = k in outside
    is_unit = before.kind == '/'  # the inch of lb/in
    before = token
    if is_outside and not is_unit and _is_remark(token):
      rest = tokens[k:]
      break
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


def _is_remark(token: Token) -> bool:
  """Whether words start a condition, or are in parentheses."""
  if token.kind not in WORDS:
    return False
  prose = token.text.strip(' ,.;:()[]')
  words_of_it = prose.lower().split()
  if not words_of_it:
    return False
  is_bracketed = token.text.lstrip().startswith('(')
  return is_bracketed or words_of_it[0] in _CONDITIONS


def _is_condition(piece: list[Token], main: list[Statement]) -> bool:
  """Whether the piece after a comma is a condition: words, a range, or a value of one of the answer's symbols."""
  signs = {sign(token) for token in piece}
  if signs & ORDER and 'text' not in signs and _is_new_quantity(piece, main):
    return False
  if signs & _OF_CONDITIONS:
    return True
  parts, relations = split_at(piece, RELATIONS)
  if piece[0].kind == 'word':
    return not relations or not _is_named_function(parts[0])
  return bool(relations) and _contains(main[-1].members[-1], parts[0])


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


def side(part: Statement, reading: Reading) -> Node:
  """The part of a statement that counts as an Expression: its last member, or a whole inequality."""
  equals = [k for k, what in enumerate(part.signs) if what in EQUALS]
  start = 0
  if equals:
    start = equals[-1] + 1
  if start and _is_constant(part.members[-1]):  # pV = const says something of pV
    kept = member(part.members[-2], reading)
    return relation([kept, symbol('constant')], ['='])
  nodes = [member(tokens, reading) for tokens in part.members[start:]]
  signs = part.signs[start:]
  if signs:
    return relation(nodes, signs)
  return nodes[0]


def _is_constant(tokens: list[Token]) -> bool:
  """Whether a member is the word "constant"."""
  if len(tokens) != 1 or tokens[0].kind not in WORDS:
    return False
  word = tokens[0].text.strip(' .')
  return word.lower() in _CONSTANT


def member(tokens: list[Token], reading: Reading) -> Node:
  """Reads one side of a relation."""
  if not trim(tokens):
    raise ParseError('nothing on one side of a relation')
  tokens = unwrap(trim(tokens))
  if any(sign(tokens[place]) in _INFIX for place in top_level(tokens)):
    tokens = [Token('{', '{'), *tokens, Token('}', '}')]  # a \over b is a fraction of all that its group holds
  return parse_tokens(tokens, reading)
