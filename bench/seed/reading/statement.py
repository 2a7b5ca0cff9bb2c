"""From an answer's tokens to the statements to score: conditions removed, lists and relations split."""

import dataclasses

from bench.seed.nodes import Node, ParseError, symbol, words
from bench.seed.reading.atoms.symbols import SYMBOLS
from bench.seed.reading.parser import Reading, parse_tokens
from bench.seed.reading.splitting import (
  CLOSING,
  EQUALS,
  OPENING,
  ORDER,
  RELATIONS,
  relation,
  rounded,
  split_at,
  top_level,
  trim,
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

COMMA = Token(',', ',')
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
  has_wrapper = any(_is_wrapper(token) and token.kind == 'begin' for token in tokens)
  if has_wrapper:
    tokens = [token for token in tokens if not _is_wrapper(token)]
    if not any(token.kind == 'begin' for token in tokens):
      tokens = _joined_rows(tokens)
  has_bullet = bool(tokens) and sign(tokens[0]) == '\\cdot'
  return unwrap(trim(rounded(tokens[has_bullet:])))


def _is_wrapper(token: Token) -> bool:
  """Whether the token begins or ends a display environment."""
  return token.kind in ('begin', 'end') and token.text in _WRAPPERS


def _joined_rows(tokens: list[Token]) -> list[Token]:
  """Aligned rows as one list: a row that starts with a sign continues the last one, others follow a comma."""
  plain = [token for token in tokens if token.kind != '&']
  joined = []
  for token, after in zip(plain, [*plain[1:], Token('end', '')]):
    if token.kind != 'row':
      joined.append(token)
    elif sign(after) not in _CONTINUING and joined and joined[-1].kind not in ',;':
      joined.append(COMMA)
  return joined


def unwrap(tokens: list[Token]) -> list[Token]:
  """Tokens without braces that enclose all of them."""
  while len(tokens) > 1 and tokens[0].kind == '{' and matching(tokens) == len(tokens) - 1:
    tokens = trim(tokens[1:-1])
  return tokens


def matching(tokens: list[Token]) -> int | None:
  """The index of the bracket that closes the first token."""
  level = 0
  for k, token in enumerate(tokens):
    level += (sign(token) in OPENING) - (sign(token) in CLOSING)
    if level == 0:
      return k
  return None


def statement(tokens: list[Token]) -> Statement:
  """A piece split at its relation signs; after an arrow of implication only the conclusion counts."""
  conclusions, _ = split_at(tokens, {'\\implies'})
  members, signs = split_at(_unlabelled(conclusions[-1]), RELATIONS)
  return Statement(members, signs)


def _unlabelled(tokens: list[Token]) -> list[Token]:
  """Tokens without the colon of a definition and without words that announce the answer."""
  colons = [k for k, token in enumerate(tokens) if token.kind == ':']
  if not colons:
    return tokens
  before = tokens[: colons[0]]
  if before and all(token.kind in ('text', 'word') for token in before):
    tokens = tokens[colons[0] + 1 :]
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
  if not signs or not members[0] or not main[0].signs:
    return False
  named = [token for token in main[0].members[0] if token.kind not in ('text', 'word')]
  is_value = _contains(main[-1].members[-1], members[0])
  return members[0][:1] == named[:1] and not is_value


def commas_for_words(tokens: list[Token]) -> list[Token]:
  """The tokens with a comma for each "and" and "or", none after another comma."""
  joined = []
  for token in tokens:
    is_join = token.kind in ('text', 'word') and token.text.strip(' ,').lower() in ('and', 'or')
    if not is_join:
      joined.append(token)
    elif not joined or joined[-1].kind != ',':
      joined.append(COMMA)
  return joined


def _before_condition(tokens: list[Token]) -> tuple[list[Token], list[Token]]:
  """(the tokens up to the first blank, remark or bracketed range, without blanks; the tokens from there on)."""
  outside = set(top_level(tokens)) - {0}
  kept = []
  rest = []
  for k, token in enumerate(tokens):
    is_unit = k and tokens[k - 1].kind == '/'  # the inch of lb/in
    if k in outside and token.kind == 'quad':
      if not _equates_more(tokens[k + 1 :]):
        rest = tokens[k + 1 :]
        break
      neighbours = (*kept[-1:], *tokens[k + 1 : k + 2])
      if not any(neighbour.kind in (',', ';') for neighbour in neighbours):
        kept.append(COMMA)
    elif k in outside and not is_unit and _is_remark(token):
      rest = tokens[k:]
      break
    elif token.kind != 'quad':
      kept.append(token)
  start = _range_start(kept)
  return kept[:start], kept[start:] + rest


def _equates_more(tokens: list[Token]) -> bool:
  """Whether one more equation follows a blank, as in a=1, \\quad b=2, and no remark."""
  pieces, _ = split_at(trim(tokens), {',', ';', 'quad'})
  first = trim(pieces[0])
  members, signs = split_at(first, RELATIONS)
  has_words = any(token.kind in ('text', 'word') for token in members[0])
  return bool(signs) and set(signs) <= EQUALS and bool(trim(members[0])) and not has_words


def _range_start(tokens: list[Token]) -> int:
  """Where a range in brackets starts that ends an equation, as in x=1 (y>0); the length without one."""
  starts = [k for k in range(1, len(tokens)) if tokens[k].kind == '(' and tokens[k - 1].kind in ('number', '}', ')')]
  for k in starts:
    inside = tokens[k + 1 : -1]
    is_last = matching(tokens[k:]) == len(tokens) - 1 - k
    has_range = any(sign(inside[place]) in ORDER for place in top_level(inside))
    if is_last and has_range:
      return k
  return len(tokens)


def _is_remark(token: Token) -> bool:
  """Whether words start a condition, or are in parentheses."""
  if token.kind not in ('text', 'word'):
    return False
  prose = token.text.strip(' ,.;:()[]').lower().split()
  return bool(prose) and (prose[0] in _CONDITIONS or token.text.lstrip().startswith('('))


def _is_condition(piece: list[Token], main: list[Statement]) -> bool:
  """Whether the piece after a comma is a condition: words, a range, or a value of one of the answer's symbols."""
  signs = {sign(token) for token in piece}
  if signs & ORDER and 'text' not in signs and _is_new_quantity(piece, main):
    return False
  if signs & (ORDER | {'\\neq', '\\in', '\\ldots', '\\forall', 'text', '\\to'}):
    return True
  parts, relations = split_at(piece, RELATIONS)
  if piece[0].kind == 'word':
    return not relations or not _is_named_function(parts[0])
  return bool(relations) and _contains(main[-1].members[-1], parts[0])


def _contains(tokens: list[Token], part: list[Token]) -> bool:
  """Whether `part` is a name that occurs in the tokens."""
  starts = range(len(tokens) - len(part) + 1)
  return 0 < len(part) <= _LONGEST_NAME and any(tokens[k : k + len(part)] == part for k in starts)


def _is_new_quantity(piece: list[Token], main: list[Statement]) -> bool:
  """Whether an inequality is one more result: its symbols are not those of the relations before it."""
  if not all(part.signs for part in main):
    return False
  known = {token for part in main for tokens in part.members for token in tokens}
  symbols = [token for token in piece if token.kind == 'letter' or token.text in _GREEK]
  return bool(symbols) and not any(token in known for token in symbols)


def _is_named_function(tokens: list[Token]) -> bool:
  """Whether the tokens are an upright name with arguments, such as Cov(X, Y)."""
  return len(tokens) > 2 and tokens[1].kind == '(' and tokens[0].text.lower() not in _CONDITIONS


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
  return len(tokens) == 1 and tokens[0].kind in ('text', 'word') and tokens[0].text.strip(' .').lower() in _CONSTANT


def member(tokens: list[Token], reading: Reading) -> Node:
  """Reads one side of a relation."""
  if not trim(tokens):
    raise ParseError('nothing on one side of a relation')
  return parse_tokens(unwrap(trim(tokens)), reading)
