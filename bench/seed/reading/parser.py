r"""Tokens to an expression tree, by precedence.

From loose to tight: sums; products and quotients written with a sign; juxtaposition (so a/bc is a over bc);
functions without brackets; powers and factorials; atoms. No text is ever evaluated: a tree is all that comes
out.
"""

import dataclasses

from bench.seed.nodes import ONE, Name, Node, ParseError, TooLarge, add, divide, mul, negative, number, power
from bench.seed.reading import calculus
from bench.seed.reading.atoms import (
  ATOMS,
  degree,
  is_unit,
  keeps_word,
  negative_power,
  short_unit,
  symbol_atom,
  unit_atom,
  word_atom,
)
from bench.seed.reading.functions import FUNCTIONS, apply
from bench.seed.reading.products import is_vector, times
from bench.seed.reading.tokens import MAX_NESTING, Token, label, sign, tokenize

MAX_TOKENS = 8_000
_TIMES = frozenset(('*', '\\times', '\\cdot'))
_SIGNS = {'+': 'plus', '-': 'minus', '\\pm': 'pm', '\\mp': 'mp'}
_SETS = {'\\cup': 'union', '\\cap': 'intersection', '\\setminus': 'setminus'}
_END = Token('end', '')


@dataclasses.dataclass(frozen=True)
class Reading:
  """How letters are read. units: bare words are units; i, e: whether these letters are symbols of the
  problem."""

  units: bool = False
  i: bool = False
  e: bool = False
  log_base: str = 'e'


def parse(text: str, reading: Reading = Reading()) -> Node:
  """The tree of a LaTeX expression. Raises ParseError or TooLarge."""
  return parse_tokens(tokenize(text, units=reading.units), reading)


def parse_tokens(tokens: list[Token], reading: Reading = Reading()) -> Node:
  """The tree of all the tokens."""
  parser = Parser(tokens, reading)
  if tokens and all(t.kind in ('text', 'word') for t in tokens):
    return Node('symbol', (), Name(' '.join(t.text for t in tokens)))
  node = parser.whole()
  if parser.peek().kind in '.;,' and parser.at + 1 == len(tokens):
    return node
  if parser.peek() is not _END:
    raise ParseError(f'{parser.peek().text!r} was not expected')
  return node


class Parser:
  """A cursor over tokens with one method for each level of precedence."""

  def __init__(self, tokens: list[Token], reading: Reading):
    if len(tokens) > MAX_TOKENS:
      raise TooLarge(f'{len(tokens)} tokens, at most {MAX_TOKENS} are read')
    self.tokens, self.reading, self.at = tokens, reading, 0
    self.level, self.bars = 0, 0
    # One list of variables for each open integral; the differentials met on the way are put there.
    self.integrals: list[list[Node]] = []
    self.indices: set[str] = set()

  # Cursor.

  def peek(self, ahead: int = 0) -> Token:
    k = self.at + ahead
    return self.tokens[k] if k < len(self.tokens) else _END

  def next(self) -> Token:
    token = self.peek()
    self.at += 1
    return token

  def ahead(self, *signs: str) -> bool:
    return sign(self.peek()) in signs

  def accept(self, *signs: str) -> bool:
    if self.ahead(*signs):
      self.at += 1
      return True
    return False

  def expect(self, *signs: str) -> None:
    if not self.accept(*signs):
      raise ParseError(f'{signs[0]!r} expected, {self.peek().text!r} found')

  def deeper(self, levels: int) -> None:
    self.level += levels
    if self.level > MAX_NESTING:
      raise TooLarge(f'nested more than {MAX_NESTING} levels')

  # Levels of precedence.

  def whole(self) -> Node:
    """Everything up to a comma or a closing sign: sums joined to a ratio or by the signs of sets."""
    parts = [self.union()]
    while self.accept(':'):
      parts.append(self.union())
    return parts[0] if len(parts) == 1 else Node('ratio', tuple(parts))

  def union(self) -> Node:
    """Sets joined by union, intersection or difference, from left to right."""
    left = self.sum()
    while sign(self.peek()) in _SETS:
      head = _SETS[sign(self.next())]
      right = self.sum()
      same = left.head == head == 'union'
      left = Node(head, (*left.args, right) if same else (left, right))
    return left

  def sum(self) -> Node:
    self.deeper(1)
    terms = [self.signed()]
    while sign(self.peek()) in _SIGNS:
      terms.append(self.signed())
    self.deeper(-1)
    return add(*terms)

  def signed(self) -> Node:
    """A product with any signs in front."""
    wraps = []
    while sign(self.peek()) in _SIGNS:
      wraps.append(_SIGNS[sign(self.next())])
    node = self.product()
    for wrap in reversed(wraps):
      node = negative(node) if wrap == 'minus' else node if wrap == 'plus' else Node(wrap, (node,))
    return node

  def product(self) -> Node:
    left = self.chain()
    while True:
      if sign(self.peek()) in _TIMES:
        operator = sign(self.next())
        right = self.operand()
        if operator == '\\cdot':
          while is_vector(right) and self.ahead('\\times'):
            self.next()
            right = times('\\times', right, self.operand())
        left = times(operator, left, right)
      elif self.ahead('/'):
        self.next()
        derivative = calculus.slash_derivative(self, left)
        left = derivative or divide(left, self.divisor(left))
      else:
        return left

  def divisor(self, left: Node) -> Node:
    """What follows a slash: a number under a number is a coefficient, units joined by dots stay below."""
    if left.head == 'number' and self.coefficient_ahead():
      node = self.factor()
      self.tokens = [*self.tokens[: self.at], Token('*', '*'), *self.tokens[self.at :]]
      return node
    node = self.operand()
    while is_unit(node) and sign(self.peek()) in _TIMES:
      start = self.at
      self.next()
      factor = self.factor() if self.operand_ahead(first=True) else None
      if factor is None or not is_unit(factor) or negative_power(factor):
        self.at = start
        break
      node = mul(node, factor)
    return node

  def coefficient_ahead(self) -> bool:
    """Whether a bare number and then letters follow, as in 3/2 k_B T; 1/4π keeps its π below."""
    after = self.peek(1)
    letters = after.kind in ('letter', 'command', 'word', 'run') and after.text not in _NO_LETTERS
    return self.peek().kind == 'number' and letters

  def operand(self) -> Node:
    """What follows a sign of multiplication or division: a chain, which may carry a minus sign."""
    if self.accept('-'):
      return negative(self.operand())
    self.accept('+')
    return self.chain()

  def chain(self) -> Node:
    """Juxtaposed factors. An operator (d/dx, nabla) acts on the factors after it."""
    factors: list[Node] = []
    dropped = False
    while self.operand_ahead(first=not factors) or (not factors and self.ahead('^')):
      if self.drops_word(factors):
        self.next()
        dropped = True
        continue
      factor = self.factor()
      if factor is None:
        dropped = True
      elif calculus.is_operator(factor):
        factors.append(calculus.operate(self, factor))
      else:
        factors.append(factor)
    if not factors and not (dropped and self.integrals):
      raise ParseError(f'an operand was expected, {self.peek().text!r} found')
    return mul(*factors) if factors else ONE

  def drops_word(self, factors: list[Node]) -> bool:
    """Whether the token ahead is prose: text, or a word without a meaning, beside another operand."""
    kind = self.peek().kind
    if kind == '(' and factors and self.peek(1).kind in ('text', 'word') and self.peek(2).kind == ')':
      self.at += 2  # a remark in brackets
      return True
    if kind not in ('text', 'word') or keeps_word(self, factors):
      return False
    return bool(factors) or self.operand_ahead(first=True, skip=1)

  def operand_ahead(self, *, first: bool, skip: int = 0) -> bool:
    """Whether an operand starts here; after an operand a bar closes the absolute value that is open."""
    what = sign(self.peek(skip))
    return what not in _STOPS and not (what == '|' and self.bars and not first)

  def factor(self) -> Node | None:
    """An atom with its powers and factorials; None for a differential, which its integral has taken."""
    if self.integrals and calculus.take_differential(self):
      return None
    return self.postfix(self.atom())

  def postfix(self, node: Node) -> Node:
    while True:
      if self.accept('!'):
        node = Node('factorial2' if self.accept('!') else 'factorial', (node,))
      elif self.accept('^'):
        node = self.raised(node)
      elif self.accept('_'):
        node = Node('at', (node,), self.label())
      elif self.accept("'"):
        node = Node('at', (node,), ("'",))
      elif self.ahead('%'):
        self.next()
        node = divide(node, number(100))
      elif self.bars == 0 and self.ahead('|', 'close|') and self.peek(1).kind == '_':
        self.at += 2
        node = Node('at', (node,), self.label())
      else:
        return node

  def raised(self, base: Node) -> Node:
    """The power of something that is not a symbol; a star is its conjugate, a dagger its adjoint."""
    tokens = self.script()
    texts = [sign(t) for t in tokens]
    if texts in (['*'], ['\\ast']):
      return Node('conjugate', (base,))
    if texts == ['\\dagger']:
      return Node('adjoint', (base,))
    if texts == ['\\circ']:
      return degree(self, base)
    if texts and set(texts) <= {'\\prime', "'"}:
      return Node('at', (base,), tuple(texts))
    return power(base, self.inner(tokens))

  def atom(self) -> Node:
    what = sign(self.peek())
    if self.peek().kind in ('word', 'command') and (short := short_unit(self)):
      return short
    for table, act in ((calculus.COMMANDS, None), (FUNCTIONS, apply)):
      if self.peek().kind in ('command', 'word') and self.peek().text in table:
        name = self.next().text
        return act(self, name) if act else table[name](self)
    if what in ATOMS:
      return ATOMS[what](self)
    unit = (self.reading.units or self.peek().kind == 'word') and unit_atom(self)
    if unit:
      return unit
    return word_atom(self) if self.peek().kind in ('word', 'text') else symbol_atom(self)

  # Pieces.

  def script(self) -> list[Token]:
    """The tokens of a sub- or superscript: a braced group or one token (a command with its argument)."""
    if self.ahead('{'):
      start = self.at
      self.skip_group()
      return self.tokens[start + 1 : self.at - 1]
    if self.peek() is _END or self.peek().kind in ')}]&':
      raise ParseError('an empty script')
    start = self.at
    token = self.next()
    if token.kind == '-' and self.peek().kind == 'number':
      self.next()
    if token.kind == 'command':
      while self.ahead('{'):
        self.skip_group()
      if self.at == start + 1 and token.text in ('vec', 'hat', 'bar', 'tilde', 'mathcal', 'mathbb'):
        self.next()
    return self.tokens[start : self.at]

  def skip_group(self) -> None:
    """Past the braced group that starts here."""
    level = 0
    while True:
      token = self.next()
      if token is _END:
        raise ParseError('a brace is not closed')
      level += (token.kind == '{') - (token.kind == '}')
      if level == 0:
        return

  def inner(self, tokens: list[Token], *, differentials: bool = False) -> Node:
    """The tree of tokens taken out of the stream; `differentials`: those inside belong to the open
    integral."""
    self.deeper(1)
    child = Parser(tokens, self.reading)
    child.level, child.indices = self.level, self.indices
    child.integrals = self.integrals if differentials else []
    node = child.whole()
    if child.peek() is not _END:
      raise ParseError(f'{child.peek().text!r} was not expected')
    self.deeper(-1)
    return node

  def group(self, *closings: str) -> list[Node]:
    """Sums separated by commas, up to and past one of the closing signs."""
    bars, self.bars = self.bars, 0
    parts = [self.whole()]
    while self.accept(',', ';'):
      parts.append(self.whole())
    self.expect(*closings)
    self.bars = bars
    return parts

  def piece(self) -> list[Token]:
    """The tokens of a command's argument: a braced group, or one digit, letter or command."""
    token = self.peek()
    if token.kind == 'number' and len(token.text) > 1 and token.text.isdigit():
      self.tokens = [*self.tokens[: self.at], Token('number', token.text[1:]), *self.tokens[self.at + 1 :]]
      return [Token('number', token.text[0])]
    return self.script()

  def argument(self) -> Node:
    return self.inner(self.piece())

  def label(self) -> tuple[str, ...]:
    """A script as a label: fonts, braces and spaces aside, so that only what is read counts."""
    return label(self.script())


# Commands after a number that are no letters of a product.
_NO_LETTERS = frozenset(
  (
    'pi',
    'times',
    'cdot',
    'pm',
    'mp',
    'cup',
    'cap',
    'setminus',
    'choose',
    'over',
    'rangle',
    'rfloor',
    'rceil',
    'to',
    'in',
  )
)
_STOPS = frozenset(
  (
    'end',
    ')',
    ']',
    '}',
    '\\}',
    'close|',
    ',',
    ';',
    ':',
    '=',
    '<',
    '>',
    '&',
    'row',
    'begin_end',
    'end',
    '/',
    '+',
    '-',
    '*',
    '!',
    '^',
    '_',
    "'",
    '%',
    '.',
    'quad',
    '"',
    '\\pm',
    '\\mp',
    '\\times',
    '\\cdot',
    '\\rangle',
    '\\rfloor',
    '\\rceil',
    '\\in',
    '\\choose',
    '\\cup',
    '\\cap',
    '\\setminus',
    '\\over',
  )
)
