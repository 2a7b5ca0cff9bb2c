"""Atoms: numbers, symbols with their decorations, groups, bars, matrices, units."""

from fractions import Fraction

from bench.seed.nodes import (
  INFINITY,
  PI,
  E,
  I,
  Name,
  Node,
  ParseError,
  Unsupported,
  divide,
  mul,
  number,
  power,
  symbol,
  words,
)
from bench.seed.reading import sets, units
from bench.seed.reading.functions import FUNCTIONS
from bench.seed.reading.tokens import Token, label, sign

# Commands that stand for a symbol.
SYMBOLS = words(
  'alpha beta gamma delta varepsilon zeta eta theta vartheta iota kappa varkappa lambda mu nu xi pi '
  'varpi rho varrho sigma varsigma tau upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi Pi '
  'Sigma Upsilon Phi Psi Omega varGamma varDelta varTheta varLambda varXi varPi varSigma varPhi varPsi '
  'varOmega hbar ell aleph beth wp partial ldots AA circ dagger oplus otimes emptyset varnothing forall '
  'exists cdot uparrow downarrow perp parallel prime eth mho'
)
_ACCENTS = {
  'hat': 'hat',
  'bar': 'bar',
  'tilde': 'tilde',
  'vec': 'vec',
  'dot': 'dot',
  'ddot': 'ddot',
  'overline': 'bar',
  'mathcal': 'cal',
  'mathscr': 'cal',
  'mathfrak': 'frak',
  'mathbb': 'bb',
  'breve': 'breve',
  'check': 'check',
  'acute': 'acute',
  'grave': 'grave',
  'mathring': 'ring',
  'underline': 'under',
  'slashed': 'slash',
  'not': 'slash',
}
_MARKS = {'*': '*', '\\dagger': '†', '\\prime': "'", "'": "'"}
_LONE_MARKS = words(r'+ - \top \intercal \perp \parallel \circ \uparrow \downarrow')
# Letters that stand for a function whenever a bracket follows; others only before a lone symbol or number.
_FUNCTION_LETTERS = frozenset(('f', '\\psi', '\\Psi', '\\phi', '\\varphi', '\\Phi'))
_NAMED = {'\\Gamma': 'gamma', '\\delta': 'delta', '\\theta': 'step', '\\Theta': 'step', '\\zeta': 'zeta'}
_MATRICES = words('matrix pmatrix bmatrix Bmatrix smallmatrix array vmatrix Vmatrix psmallmatrix bsmallmatrix')


def _number(parser) -> Node:
  digits, _, exponent = parser.next().text.partition('e')
  value = number(Fraction(digits))
  return mul(value, power(number(10), number(int(exponent)))) if exponent else value


def symbol_atom(parser) -> Node:
  """A letter or a symbol command with its decorations, powers and, where it is a function, its argument."""
  token = parser.next()
  if token.kind not in ('letter', 'command', 'run') or (token.kind == 'command' and token.text not in SYMBOLS):
    raise ParseError(f'{token.text!r} is not a symbol')
  return _scripts(parser, Name(sign(token) if token.kind == 'command' else token.text))


def word_atom(parser) -> Node:
  """Reads a word as one name, with its subscripts and superscripts."""
  return _scripts(parser, Name(parser.next().text))


def keeps_word(parser, factors: list[Node]) -> bool:
  """Whether the word ahead means something beside an operand: a function, a name with scripts, a unit."""
  word, after = parser.peek(), parser.peek(1).kind
  if word.kind == 'text':
    return False
  if parser.reading.units:
    scaled = sign(parser.peek(1)) in ('\\Omega', '\\AA')
    return units.lookup(word.text) is not None or word.text in FUNCTIONS or after in '^_' or scaled
  numeric = bool(factors) and all(n.head in ('number', 'pow', 'mul', 'pi') for n in factors)
  return word.text in FUNCTIONS or after in ('^', '_', '(', "'") or (numeric and units.lookup(word.text) is not None)


def _scripts(parser, name: Name) -> Node:
  exponent = None
  while parser.ahead('_', '^', "'"):
    kind = parser.next().kind
    if kind == '_':
      name = name._replace(sub=name.sub + parser.label())
    elif kind == "'":
      name = name.marked("'")
    else:
      marks, rest = _marks(parser.script())
      name = name.marked(*marks)
      if rest and exponent is not None:
        raise ParseError('two exponents on one symbol')
      exponent = parser.inner(rest) if rest else exponent
  return _finish(parser, name, exponent)


def _marks(tokens: list[Token]) -> tuple[list[str], list[Token]]:
  """Decorations at the head of a superscript, and what is left as the exponent."""
  marks = []
  while tokens and sign(tokens[0]) in _MARKS:
    marks.append(_MARKS[sign(tokens[0])])
    tokens = tokens[1:]
  signs = [sign(t) for t in tokens]
  named = tokens and all(t.kind in ('word', 'text') for t in tokens)
  order = len(tokens) == 3 and signs[0] == '(' and signs[2] == ')' and tokens[1].kind in ('number', 'letter')
  charge = len(tokens) > 1 and signs[-1] in '+-' and all(t.kind in ('number', '+', '-', 'letter') for t in tokens)
  if named or order or charge or (len(signs) == 1 and signs[0] in _LONE_MARKS):
    return [*marks, '^' + ''.join(label(tokens))], []
  return marks, tokens


def _finish(parser, name: Name, exponent: Node | None) -> Node:
  node = _constant(parser, name, exponent)
  if node is None:
    node = Node('symbol', (), name)
    if parser.ahead('('):
      return _applied(parser, node, exponent)
  return node if exponent is None else power(node, exponent)


def _constant(parser, name: Name, exponent: Node | None) -> Node | None:
  """π, the imaginary unit and Euler's number; a decorated letter is none of them."""
  if name.sub or name.marks:
    return None
  reading = parser.reading
  if name.base == '\\pi':
    return PI
  if name.base == 'i' and not reading.i and 'i' not in parser.indices:
    return I
  # The charge e to a numeric power stays the charge; any other exponent is an exponential.
  if name.base == 'e' and not (reading.e and (exponent is None or exponent.head == 'number')):
    return E
  return None


def _applied(parser, node: Node, exponent: Node | None) -> Node:
  """A symbol in front of a bracket: a function of what is inside, or a factor."""
  parser.next()
  args = parser.group(')')
  name = node.value
  plain = not name.sub and not name.marks
  if plain and len(args) == 1 and name.base in _NAMED:
    return _raise(Node(_NAMED[name.base], tuple(args)), exponent)
  strong = name.base in _FUNCTION_LETTERS or len(args) > 1 or (len(name.base) > 1 and name.base[0] != '\\')
  if strong or (exponent is None and _lone(args[0])):
    bare = not strong and args[0] != number(0)
    return _raise(Node('call', (node, *args), 'weak' if bare else 'strong'), exponent)
  inner = parser.postfix(args[0])
  return mul(_raise(node, exponent), inner)


def _raise(node, exponent):
  return node if exponent is None else power(node, exponent)


def _lone(arg: Node) -> bool:
  if arg.head == 'mul' and len(arg.args) == 2 and arg.args[0] == number(-1):
    arg = arg.args[1]
  return arg.head in ('symbol', 'number')


def _accent(parser) -> Node:
  """A decoration over a symbol is part of its name; over anything longer it is a function."""
  mark = _ACCENTS[parser.next().text]
  tokens = parser.script()
  child = type(parser)(tokens, parser.reading)
  child.level, child.indices = parser.level + 1, parser.indices | {'i'}
  child.deeper(0)
  inner = word_atom(child) if len(tokens) == 1 and tokens[0].kind == 'word' else child.sum()
  if child.at < len(tokens):
    raise ParseError(f'{tokens[child.at].text!r} was not expected')
  if inner.head == 'e' or inner.head == 'pi':
    inner = symbol('e' if inner.head == 'e' else '\\pi')
  if inner.head == 'symbol':
    return _scripts(parser, inner.value.marked(mark))
  return inner if mark in ('hat', 'vec', 'cal', 'frak', 'bb', 'under') else Node('bar', (inner,), mark)


def _group(parser, closing: str, head: str = 'list') -> Node:
  opening = parser.next().kind
  other = {'(': ']', '[': ')'}.get(opening, closing)
  parts = parser.group(closing, other)
  if len(parts) == 2 and parser.tokens[parser.at - 1].kind != closing:
    return Node('list', tuple(parts), opening + other)
  if parser.tokens[parser.at - 1].kind != sign(Token(closing, closing)):
    raise ParseError(f'{closing!r} expected, {other!r} found')
  return parts[0] if len(parts) == 1 else Node(head, tuple(parts), closing)


def _set(parser) -> Node:
  """A set by its elements or by a condition, a group in curly brackets, or cases after a lone bracket."""
  start = parser.at
  parser.next()
  if sets.open_brace(parser):
    name = parser.next().text
    if name == 'array' and parser.ahead('{'):
      parser.skip_group()
    return sets.cases(parser)
  found = sets.builder(parser)
  if found is None:
    parser.at = start
    return _group(parser, '\\}')
  return found


def _rounding(parser, head: str) -> Node:
  parser.next()
  (inner,) = parser.group('\\rfloor' if head == 'floor' else '\\rceil')
  return Node(head, (inner,))


def _braces(parser) -> Node:
  parser.next()
  if parser.accept('}'):
    if parser.ahead('^', '_'):
      return _prescript(parser)
    return parser.postfix(parser.atom())
  bars, parser.bars = parser.bars, 0
  inner = parser.sum()
  if parser.accept('\\choose'):
    inner = Node('binomial', (inner, parser.sum()))
  elif parser.accept('\\over'):
    inner = divide(inner, parser.sum())
  parser.expect('}')
  parser.bars = bars
  return _scripts(parser, inner.value) if inner.head == 'symbol' and parser.ahead('_', "'") else inner


def _bar(parser) -> Node:
  """An absolute value, the determinant of a matrix in bars, or a ket."""
  parser.next()
  end = _ket_end(parser)
  if end is not None:
    state = label(parser.tokens[parser.at : end])
    parser.at = end + 1
    return Node('ket', (), state)
  parser.bars += 1
  inner = parser.sum()
  parser.bars -= 1
  parser.expect('close|', '|')
  return Node('det' if inner.head == 'matrix' else 'abs', (inner,))


def _ket_end(parser) -> int | None:
  """Where a ket that opened here ends, if it is one: a right angle comes before any other bar or closing
  sign."""
  level = 0
  for k in range(parser.at, min(parser.at + 40, len(parser.tokens))):
    what = sign(parser.tokens[k])
    if level == 0 and what in ('|', ')', ']', '}', 'close|'):
      return None
    if what == '\\rangle':
      return k
    level += (what in ('{', '(')) - (what in ('}', ')'))
  return None


def _angle(parser) -> Node:
  """A mean or a matrix element between angles, or a bra."""
  parser.next()
  parts: list[list[Token]] = [[]]
  inside = 0
  while inside or not parser.ahead('\\rangle'):
    if parser.peek().kind == 'end':
      if len(parts) == 2 and not parts[1]:
        return Node('bra', (), label(parts[0]))
      raise ParseError('an angle bracket is not closed')
    token = parser.next()
    inside += (sign(token) == '\\langle') - (sign(token) == '\\rangle')
    if token.kind in ('|', 'open|', 'close|') and not inside:
      parts.append([])
    else:
      parts[-1].append(token)
  parser.next()
  if len(parts) == 1:
    return Node('mean', (_part(parser, parts[0]),))
  ends = [Node('symbol', (), Name('state', label(p))) for p in (parts[0], parts[-1])]
  return Node('mean', (ends[0], *(_part(parser, p) for p in parts[1:-1]), ends[1]))


def _part(parser, tokens):
  if any(t.kind == ',' for t in tokens):
    return Node('symbol', (), Name('state', label(tokens)))
  return parser.inner(tokens)


def _environment(parser) -> Node:
  name = parser.next().text
  if name in sets.CASES:
    return sets.cases(parser)
  if name not in _MATRICES:
    raise Unsupported(f'environment {name!r}')
  if name == 'array' and parser.ahead('{'):
    parser.skip_group()
  rows = [[]]
  while not parser.ahead('end'):
    rows[-1].append(parser.sum())
    if parser.accept('row'):
      if parser.ahead('end'):
        break
      rows.append([])
    elif not parser.accept('&') and not parser.ahead('end'):
      raise ParseError(f'{parser.peek().text!r} in a matrix')
  parser.next()
  if rows == [[]]:
    raise ParseError('an empty matrix')
  if len({len(r) for r in rows}) != 1:
    raise ParseError('the rows of a matrix differ in length')
  matrix = Node('matrix', tuple(c for r in rows for c in r), (len(rows), len(rows[0])))
  return Node('det', (matrix,)) if name in ('vmatrix', 'Vmatrix') else matrix


def _binomial(parser) -> Node:
  parser.next()
  return Node('binomial', (parser.argument(), parser.argument()))


def _infinity(parser) -> Node:
  parser.next()
  return INFINITY


def is_unit(node: Node) -> bool:
  """Whether a node is a unit, a power of one or a product of such."""
  if node.head == 'mul':
    return all(map(is_unit, node.args))
  return is_unit(node.args[0]) if node.head == 'pow' else node.head == 'unit'


def negative_power(node: Node) -> bool:
  """Whether a node is something to a negative number."""
  return node.head == 'pow' and node.args[1].head == 'number' and node.args[1].value < 0


def short_unit(parser) -> Node | None:
  """Minutes and seconds, whose short names are functions where an argument follows."""
  token, after = parser.peek(), sign(parser.peek(1))
  if token.kind not in ('word', 'command') or token.text not in ('min', 'sec') or after in ('(', '[', '{', '\\{', '_'):
    return None
  if after == '^' and token.text == 'sec':
    return None
  if parser.peek(1).kind in ('end', ')', '}', '/', '.', ',', '^', '*'):
    parser.next()
    return Node('unit', (), units.lookup(token.text))
  return None


def _prescript(parser) -> Node:
  """Scripts in front of a symbol, as in term symbols and isotopes, are a label on it."""
  before: list[str] = []
  while parser.ahead('^', '_'):
    before += (parser.next().kind, *parser.label())
  return Node('at', (parser.atom(),), ('pre', *before))


def degree(parser, base: Node) -> Node:
  """A base with a degree sign: an angle, or with C a temperature."""
  if parser.reading.units:
    celsius = parser.peek().kind in ('word', 'run') and parser.peek().text == 'C'
    if celsius:
      parser.next()
    return mul(base, Node('unit', (), units.lookup('degC' if celsius else 'deg')))
  return mul(base, PI, number(Fraction(1, 180)))


def unit_atom(parser) -> Node | None:
  """The unit ahead, in unit mode; None (and nothing read) if what is ahead is no unit."""
  start, token = parser.at, parser.next()
  if token.kind in ('word', 'run'):
    if parser.ahead('\\Omega', '\\AA'):
      unit = units.lookup(token.text + ('Ω' if parser.peek().text == 'Omega' else 'Å'))
      if unit:
        parser.next()
        return Node('unit', (), unit)
    sub = ()
    if parser.ahead('_'):
      parser.next()
      sub = parser.label()
    unit = units.CONSTANTS.get((token.text, sub)) if sub else units.lookup(token.text)
  elif token.kind == 'command':
    unit = _command_unit(parser, token.text)
  else:
    unit = None
  if unit is None:
    parser.at = start
    return None
  return Node('unit', (), unit)


def _command_unit(parser, name):
  if name == 'mu' and parser.peek().kind in ('word', 'run', '{'):
    braced = parser.accept('{')
    unit = units.lookup('μ' + parser.next().text)
    if braced:
      parser.expect('}')
    return unit
  if name == 'mu' and parser.ahead('\\Omega'):
    parser.next()
    return units.lookup('μΩ')
  if name in ('Omega', 'AA'):
    return units.lookup('Ω' if name == 'Omega' else 'Å')
  sub = ()
  if name in ('mu', 'Phi') and parser.accept('_'):
    sub = parser.label()
  return units.CONSTANTS.get(('\\' + name, sub))


ATOMS = {
  'number': _number,
  '^': _prescript,
  '{': _braces,
  '(': lambda p: _group(p, ')'),
  '[': lambda p: _group(p, ']', 'commutator'),
  '\\{': _set,
  '|': _bar,
  'open|': _bar,
  'begin': _environment,
  '\\langle': _angle,
  '\\lfloor': lambda p: _rounding(p, 'floor'),
  '\\lceil': lambda p: _rounding(p, 'ceil'),
  '\\infty': _infinity,
  '\\binom': _binomial,
} | {'\\' + a: _accent for a in _ACCENTS}
