"""From an answer's tokens to what is to be scored: conditions cut, lists and relations split."""

import dataclasses

from bench.seed.nodes import Node, ParseError, words
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


@dataclasses.dataclass(frozen=True)
class Statement:
  """Members joined by relation signs: `members` has one more entry than `signs`."""

  members: list[list[Token]]
  signs: list[str]

  @property
  def inequality(self) -> bool:
    return any(s not in EQUALS for s in self.signs)


def tokens_of(text: str, reading: Reading) -> list[Token]:
  """Tokens of an answer without display environments, alignment marks and closing punctuation."""
  tokens = tokenize(text, units=reading.units)
  if any(t.kind == 'begin' and t.text in _WRAPPERS for t in tokens):
    tokens = [t for t in tokens if not (t.kind in ('begin', 'end') and t.text in _WRAPPERS)]
    if not any(t.kind == 'begin' for t in tokens):
      tokens = _joined_rows(tokens)
  return unwrap(trim(rounded(tokens)))


def _joined_rows(tokens: list[Token]) -> list[Token]:
  """Aligned rows as one list: a row that starts with a sign continues the one before, others follow a comma."""
  plain = [t for t in tokens if t.kind != '&']
  joined = []
  for token, after in zip(plain, [*plain[1:], Token('end', '')]):
    if token.kind != 'row':
      joined.append(token)
    elif sign(after) not in _CONTINUING and joined and joined[-1].kind not in ',;':
      joined.append(Token(',', ','))
  return joined


def unwrap(tokens: list[Token]) -> list[Token]:
  """Tokens without braces around all of them."""
  while len(tokens) > 1 and tokens[0].kind == '{' and _matching(tokens) == len(tokens) - 1:
    tokens = trim(tokens[1:-1])
  return tokens


def _matching(tokens: list[Token]) -> int | None:
  level = 0
  for k, token in enumerate(tokens):
    level += (sign(token) in OPENING) - (sign(token) in CLOSING)
    if level == 0:
      return k
  return None


def statement(tokens: list[Token]) -> Statement:
  """A piece split at its relation signs; after an arrow of implication only the conclusion counts."""
  conclusions, _ = split_at(tokens, {'\\implies'})
  return Statement(*split_at(_unlabelled(conclusions[-1]), RELATIONS))


def _unlabelled(tokens: list[Token]) -> list[Token]:
  """Tokens without the colon of a definition and without words that announce the answer."""
  if not any(t.kind == ':' for t in tokens):
    return tokens
  colon = next((k for k, t in enumerate(tokens) if t.kind == ':'), 0)
  if colon and all(t.kind in ('text', 'word') for t in tokens[:colon]):
    tokens = tokens[colon + 1 :]
  after = [*tokens[1:], Token('end', '')]
  return [t for t, following in zip(tokens, after) if t.kind != ':' or following.kind not in ('=', 'end')]


def statements(tokens: list[Token]) -> list[Statement]:
  """An answer as its listed statements, conditions that follow a blank, a comma or a word cut off."""
  tokens = trim(_before_condition(_listed(tokens)))
  pieces = [trim(p) for p in split_at(tokens, {',', ';'})[0]]
  main = [statement(pieces[0])]
  for piece in pieces[1:]:
    if not piece:
      raise ParseError('nothing between two commas')
    if _is_condition(piece, main[-1]):
      break
    main.append(statement(piece))
  return main


def _listed(tokens: list[Token]) -> list[Token]:
  """Words that join answers as the comma that they stand for."""
  joins = [t.kind in ('text', 'word') and t.text.strip(' ,').lower() in ('and', 'or') for t in tokens]
  return [Token(',', ',') if join else t for t, join in zip(tokens, joins)]


def _before_condition(tokens: list[Token]) -> list[Token]:
  outside = set(top_level(tokens))
  for k in sorted(outside):
    token = tokens[k]
    prose = token.text.strip(' ,.;:()[]').lower().split() if token.kind in ('text', 'word') else []
    remark = bool(prose) and (prose[0] in _CONDITIONS or token.text.lstrip().startswith('('))
    if k and (token.kind == 'quad' or remark):
      return [t for t in tokens[:k] if t.kind != 'quad']
  return [t for t in tokens if t.kind != 'quad']


def _is_condition(piece: list[Token], before: Statement) -> bool:
  """Whether what follows a comma says when the answer holds: words, a range, or a value for one of its
  symbols."""
  signs = {sign(t) for t in piece}
  if signs & (ORDER | {'\\neq', '\\in', '\\ldots', '\\forall', 'text', '\\to'}) or piece[0].kind == 'word':
    return True
  parts, relations = split_at(piece, RELATIONS)
  return bool(relations) and len(parts[0]) == 1 and parts[0][0] in before.members[-1]


def side(part: Statement, reading: Reading) -> Node:
  """What counts of a statement as an Expression: its last member, or a whole inequality."""
  last = max((k + 1 for k, s in enumerate(part.signs) if s in EQUALS), default=0)
  members, signs = part.members[last:], part.signs[last:]
  nodes = [member(m, reading) for m in members]
  return relation(nodes, signs) if signs else nodes[0]


def member(tokens: list[Token], reading: Reading) -> Node:
  """Reads one side of a relation."""
  if not trim(tokens):
    raise ParseError('nothing on one side of a relation')
  return parse_tokens(unwrap(trim(tokens)), reading)
