r"""Tokens to an expression tree, by precedence.

From loose to tight: sums; products and quotients written with a sign; juxtaposition (so a/bc is a over bc);
functions without brackets; powers and factorials; atoms. The result is a tree; no text is ever evaluated.
"""

import dataclasses

from bench.seed.nodes import ONE, Name, Node, ParseError, add, divide, mul, negative, number, power, symbol, words
from bench.seed.reading.atoms.quantities import degree, keeps_word, short_unit, unit_atom
from bench.seed.reading.atoms.symbols import symbol_atom, word_atom
from bench.seed.reading.atoms.table import ATOMS
from bench.seed.reading.calculus import derivatives, integrals
from bench.seed.reading.calculus.table import COMMANDS
from bench.seed.reading.cursor import END, Cursor
from bench.seed.reading.functions import FUNCTIONS, apply
from bench.seed.reading.products import TIMES, are_multiplicities, continues_list, divisor, is_vector, listed, times
from bench.seed.reading.scanning.scanner import tokenize
from bench.seed.reading.splitting import RELATIONS, relation
from bench.seed.reading.tokens import Token, sign

_SIGNS = {'+': 'plus', '-': 'minus', '\\pm': 'pm', '\\mp': 'mp'}
# Signs that end a product.
_STOPS = words(
  r"""end ) ] } \} close| , ; : & row begin_end / + - * ! ^ _ ' % . quad " \pm \mp \times \cdot """
  r"""\rangle \rfloor \rceil \choose \cup \cap \setminus \over \bmod"""
).union(RELATIONS)
_SETS = {'\\cup': 'union', '\\cap': 'intersection', '\\setminus': 'setminus'}


@dataclasses.dataclass(frozen=True)
class Reading:
  """How letters are read. units: bare words are units; i, e: whether these letters are symbols of the problem."""

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
  if tokens and all(token.kind in ('text', 'word') for token in tokens):
    text = ' '.join(token.text for token in tokens)
    return Node('symbol', (), Name(text))
  node = parser.whole()
  if parser.peek().kind in '.;,' and parser.at + 1 == len(tokens):
    return node
  if parser.peek() is not END:
    raise ParseError(f'{parser.peek().text!r} was not expected')
  return node


class Parser(Cursor):
  """A cursor with one method for each level of precedence."""

  def __init__(self, tokens: list[Token], reading: Reading):
    super().__init__(tokens)
    self.reading = reading
    self.bars = 0  # open absolute values
    # The variables of each open integral; a differential is added to the innermost one when it is read.
    self.integrals: list[list[Node]] = []
    self.indices: set[str] = set()

  def whole(self) -> Node:
    """Everything up to a comma or a closing sign; in brackets that may be a relation, as in f(a < r < b)."""
    members = [self.ratio()]
    signs = []
    while sign(self.peek()) in RELATIONS:
      signs.append(sign(self.next()))
      members.append(self.ratio())
    return relation(members, signs) if signs else members[0]

  def ratio(self) -> Node:
    """Sums joined by colons, or by the signs of sets."""
    parts = [self.remainder()]
    while self.accept(':'):
      parts.append(self.remainder())
    return parts[0] if len(parts) == 1 else Node('ratio', tuple(parts))

  def remainder(self) -> Node:
    """A sum with its modulus, a mod b, which is never carried out: 3 mod 5 and 3 mod 7 are different residues."""
    value = self.union()
    while self.accept('\\bmod'):
      value = Node('call', (symbol('mod'), value, self.union()), 'strong')
    return value

  def union(self) -> Node:
    """Sets joined by union, intersection or difference, from left to right."""
    left = self.sum()
    while sign(self.peek()) in _SETS:
      head = _SETS[sign(self.next())]
      right = self.sum()
      is_longer_union = left.head == head == 'union'
      members = left.args if is_longer_union else (left,)
      left = Node(head, (*members, right))
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
      if wrap == 'minus':
        node = negative(node)
      elif wrap != 'plus':
        node = Node(wrap, (node,))
    return node

  def product(self) -> Node:
    left = self.chain()
    while True:
      if sign(self.peek()) in TIMES:
        operator = sign(self.next())
        right = self.operand()
        if operator == '\\cdot':
          while is_vector(right) and self.ahead('\\times'):
            self.next()
            right = times('\\times', right, self.operand())
        left = times(operator, left, right)
      elif self.ahead('/'):
        self.next()
        derivative = derivatives.slash_derivative(self, left)
        left = derivative or divide(left, divisor(self, left))
      else:
        return left

  def operand(self) -> Node:
    """The operand of a multiplication or division sign: a chain, perhaps with a minus sign."""
    if self.accept('-'):
      return negative(self.operand())
    self.accept('+')
    return self.chain()

  def chain(self) -> Node:
    """Juxtaposed factors. An operator (d/dx, nabla) acts on the factors after it."""
    factors: list[Node] = []
    dropped = False
    is_list = False
    while self.operand_ahead(first=not factors) or (not factors and self.ahead('^')):
      if self.drops_word(factors):
        self.next()
        dropped = True
        continue
      is_list = is_list or continues_list(self, factors)
      factor = self.factor()
      if factor is None:
        dropped = True
      elif derivatives.is_operator(factor):
        factors.append(derivatives.operate(self, factor))
      else:
        factors.append(factor)
    if len(factors) > 1 and any(factor.head == 'relation' for factor in factors):
      raise ParseError('a relation in brackets is no factor')
    if is_list or are_multiplicities(factors):
      return listed(factors)
    if factors:
      return mul(*factors)
    if not dropped or not self.integrals:
      raise ParseError(f'an operand was expected, {self.peek().text!r} found')
    return ONE

  def drops_word(self, factors: list[Node]) -> bool:
    """Whether the token ahead is prose: text, or a word without a meaning, next to another operand."""
    kind = self.peek().kind
    is_remark = kind == '(' and self.peek(1).kind in ('text', 'word') and self.peek(2).kind == ')'
    if is_remark and factors:
      self.at += 2
      return True
    if kind not in ('text', 'word') or keeps_word(self, factors):
      return False
    return bool(factors) or self.operand_ahead(first=True, skip=1)

  def operand_ahead(self, *, first: bool, skip: int = 0) -> bool:
    """Whether an operand starts here; after an operand a bar closes the absolute value that is open."""
    what = sign(self.peek(skip))
    closes_bar = what == '|' and self.bars and not first
    return what not in _STOPS and not closes_bar

  def factor(self) -> Node | None:
    """An atom with its powers and factorials; None for a differential, which goes to its integral."""
    if self.integrals and integrals.take_differential(self):
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
    texts = [sign(token) for token in tokens]
    if texts in (['*'], ['\\ast']):
      return Node('conjugate', (base,))
    if texts == ['\\dagger']:
      return Node('adjoint', (base,))
    if texts == ['\\circ']:
      return degree(self, base)
    is_label = set(texts) <= {'\\prime', "'"} or set(texts) <= {'+', '-', '\\pm', '\\mp'}
    if texts and is_label:  # primes, or a parity as in 3/2^-
      return Node('at', (base,), tuple(texts))
    return power(base, self.inner(tokens))

  def atom(self) -> Node:
    short = short_unit(self)
    if short:
      return short
    token = self.peek()
    if token.kind in ('command', 'word') and token.text in COMMANDS:
      self.next()
      return COMMANDS[token.text](self)
    if token.kind in ('command', 'word') and token.text in FUNCTIONS:
      self.next()
      return apply(self, token.text)
    what = sign(token)
    if what in ATOMS:
      return ATOMS[what](self)
    may_be_unit = self.reading.units or token.kind == 'word'
    unit = unit_atom(self) if may_be_unit else None
    if unit:
      return unit
    return word_atom(self) if token.kind in ('word', 'text') else symbol_atom(self)

  def inner(self, tokens: list[Token], *, differentials: bool = False) -> Node:
    """The tree of tokens taken out of the stream; `differentials`: those inside belong to the open integral."""
    self.deeper(1)
    child = Parser(tokens, self.reading)
    child.level = self.level
    child.indices = self.indices
    child.integrals = self.integrals if differentials else []
    node = child.whole()
    if child.peek() is not END:
      raise ParseError(f'{child.peek().text!r} was not expected')
    self.deeper(-1)
    return node

  def group(self, *closings: str) -> list[Node]:
    """Sums separated by commas, up to and past one of the closing signs."""
    bars = self.bars
    self.bars = 0
    parts = [self.whole()]
    while self.accept(',', ';'):
      parts.append(self.whole())
    self.expect(*closings)
    self.bars = bars
    return parts

  def argument(self) -> Node:
    return self.inner(self.piece())
