"""Symbols: letters and commands with their decorations, scripts and arguments."""

from bench.seed.nodes import PI, E, I, Name, Node, ParseError, mul, number, power, symbol, words
from bench.seed.reading.tokens import Token, label, sign

# Commands that are symbols.
SYMBOLS = words(
  'alpha beta gamma delta varepsilon zeta eta theta vartheta iota kappa varkappa lambda mu nu xi pi '
  'varpi rho varrho sigma varsigma tau upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi Pi '
  'Sigma Upsilon Phi Psi Omega varGamma varDelta varTheta varLambda varXi varPi varSigma varPhi varPsi '
  'varOmega hbar ell aleph beth wp partial ldots AA circ dagger oplus otimes emptyset varnothing forall '
  'exists cdot uparrow downarrow perp parallel prime eth mho angle triangle'
)
ACCENTS = {
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
_LONE_MARKS = words(r'+ - \pm \mp \top \intercal \perp \parallel \circ \uparrow \downarrow')
_POWERED = frozenset(('e', 'i'))  # to the power 0 they are 1; other symbols are particles without a charge, as π^0
# Letters that are functions whenever a bracket follows; others only if it holds a single symbol or number.
_FUNCTION_LETTERS = frozenset(('f', '\\psi', '\\Psi', '\\phi', '\\varphi', '\\Phi'))
_NAMED = {'\\Gamma': 'gamma', '\\delta': 'delta', '\\theta': 'step', '\\Theta': 'step', '\\zeta': 'zeta'}


def symbol_atom(parser) -> Node:
  """A letter or a symbol command with its decorations, its power and, if it is a function, its argument."""
  token = parser.next()
  is_command = token.kind == 'command' and token.text in SYMBOLS
  if not is_command and token.kind not in ('letter', 'run'):
    raise ParseError(f'{token.text!r} is not a symbol')
  return scripts(parser, Name(sign(token) if is_command else token.text))


def word_atom(parser) -> Node:
  """A word as one name, with its subscripts and superscripts."""
  return scripts(parser, Name(parser.next().text))


def scripts(parser, name: Name) -> Node:
  """A name with the indices, primes and powers that follow it."""
  exponent = None
  while parser.ahead('_', '^', "'"):
    kind = parser.next().kind
    if kind == '_':
      name = name._replace(sub=name.sub + parser.label())
    elif kind == "'":
      name = name.marked("'")
    else:
      marks, rest = _marks(parser.script(), name)
      name = name.marked(*marks)
      if not rest:
        continue
      if exponent is not None:
        raise ParseError('two exponents on one symbol')
      exponent = parser.inner(rest)
  return _finish(parser, name, exponent)


def _marks(tokens: list[Token], name: Name) -> tuple[list[str], list[Token]]:
  """(decorations at the start of a superscript of `name`, the remaining tokens, which are the exponent)."""
  marks = []
  while tokens and sign(tokens[0]) in _MARKS:
    marks.append(_MARKS[sign(tokens[0])])
    tokens = tokens[1:]
  is_charge = [token.text for token in tokens] == ['0'] and name.base not in _POWERED
  if tokens and (is_charge or _is_decoration(tokens)):
    marks.append('^' + ''.join(label(tokens)))
    return marks, []
  return marks, tokens


def _is_decoration(tokens: list[Token]) -> bool:
  """Whether a superscript is no exponent: words, a sign such as ⊥, an order as in x^{(2)}, a charge as in 2+."""
  signs = [sign(token) for token in tokens]
  kinds = {token.kind for token in tokens}
  if kinds <= {'word', 'text'}:
    return True
  if len(tokens) == 1:
    return signs[0] in _LONE_MARKS
  if len(tokens) == 3 and signs[0] == '(' and signs[2] == ')' and tokens[1].kind in ('number', 'letter'):
    return True
  return signs[-1] in '+-' and kinds <= {'number', '+', '-', 'letter'}


def _finish(parser, name: Name, exponent: Node | None) -> Node:
  constant = _constant(parser, name, exponent)
  if constant is not None:
    return _raise(constant, exponent)
  node = Node('symbol', (), name)
  if parser.ahead('('):
    return _applied(parser, node, exponent)
  return _raise(node, exponent)


def _constant(parser, name: Name, exponent: Node | None) -> Node | None:
  """π, the imaginary unit and Euler's number; a decorated letter is none of them."""
  if name.sub or name.marks:
    return None
  reading = parser.reading
  if name.base == '\\pi':
    return PI
  if name.base == 'i' and not reading.i and 'i' not in parser.indices:
    return I
  # The charge e to a numeric power is still the charge; with any other exponent e is Euler's number.
  is_charge = reading.e and (exponent is None or exponent.head == 'number')
  if name.base == 'e' and not is_charge:
    return E
  return None


def _applied(parser, node: Node, exponent: Node | None) -> Node:
  """A symbol in front of a bracket: a function of what is inside, or a factor."""
  parser.next()
  name = node.value
  sign_argument = _sign_argument(parser)
  if sign_argument:
    return _raise(Node('call', (node, symbol(sign_argument)), 'strong'), exponent)
  args = parser.group(')')
  is_plain = not name.sub and not name.marks
  if is_plain and len(args) == 1 and name.base in _NAMED:
    return _raise(Node(_NAMED[name.base], tuple(args)), exponent)
  is_word = len(name.base) > 1 and name.base[0] != '\\'
  has_many = len(args) > 1 or args[0].head == 'relation'
  is_function = is_word or name.base in _FUNCTION_LETTERS or has_many
  if is_function or (exponent is None and _lone(args[0])):
    is_strong = is_function or args[0] == number(0)
    return _raise(Node('call', (node, *args), 'strong' if is_strong else 'weak'), exponent)
  inner = parser.postfix(args[0])
  return mul(_raise(node, exponent), inner)


def _sign_argument(parser) -> str | None:
  """A sign, perhaps after a number, up to and past the closing bracket, as in P(+) or i(1+); None for others."""
  ahead = [parser.peek(k) for k in range(3)]
  if ahead[0].kind != 'number':
    ahead = ahead[:2]
  *label_tokens, closing = ahead
  is_sign = label_tokens[-1].kind in ('+', '-') and closing.kind == ')'
  if not is_sign:
    return None
  parser.at += len(ahead)
  return ''.join(token.text for token in label_tokens)


def _raise(node: Node, exponent: Node | None) -> Node:
  if exponent is None:
    return node
  return power(node, exponent)


def _lone(arg: Node) -> bool:
  if arg.head == 'mul' and len(arg.args) == 2 and arg.args[0] == number(-1):
    arg = arg.args[1]
  return arg.head in ('symbol', 'number')


def accent(parser) -> Node:
  """A decoration over a symbol is part of its name; over anything longer it is a function."""
  mark = ACCENTS[parser.next().text]
  tokens = parser.script()
  child = type(parser)(tokens, parser.reading)
  child.level = parser.level + 1
  child.indices = parser.indices | {'i'}
  child.deeper(0)  # checks the level
  is_word = len(tokens) == 1 and tokens[0].kind == 'word'
  inner = word_atom(child) if is_word else child.sum()
  if child.at < len(tokens):
    raise ParseError(f'{tokens[child.at].text!r} was not expected')
  if inner.head == 'e':
    inner = symbol('e')
  elif inner.head == 'pi':
    inner = symbol('\\pi')
  if inner.head == 'symbol':
    return scripts(parser, inner.value.marked(mark))
  if mark in ('hat', 'vec', 'cal', 'frak', 'bb', 'under'):
    return inner
  return Node('bar', (inner,), mark)


def prescript(parser) -> Node:
  """Scripts in front of a symbol, as in term symbols and isotopes, are a label on it."""
  before: list[str] = []
  while parser.ahead('^', '_'):
    before += (parser.next().kind, *parser.label())
  return Node('at', (parser.atom(),), ('pre', *before))
