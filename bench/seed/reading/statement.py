"""The tokens of an answer, and one statement of it: its members and relation signs."""

import dataclasses

from bench.seed.nodes import Node, ParseError, symbol, words
from bench.seed.reading.parser import Reading, parse_tokens
from bench.seed.reading.scanning.scanner import tokenize
from bench.seed.reading.splitting import (
  COMMA,
  EQUALS,
  RELATIONS,
  WORDS,
  relation,
  rounded,
  split_at,
  top_level,
  trim,
  unwrap,
)
from bench.seed.reading.tokens import Token, sign

# Signs that continue the row above them.
CONTINUING = RELATIONS | {'+', '-', '*', '/', '\\pm', '\\mp', '\\times', '\\cdot', ',', ';', 'row', 'end', '\\implies'}
_WRAPPERS = words('equation align aligned gathered gather split multline eqnarray displaymath math')
_CONSTANT = words('constant const')
_INFIX = frozenset(('\\over', '\\choose'))


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
    continues = sign(after) in CONTINUING
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
