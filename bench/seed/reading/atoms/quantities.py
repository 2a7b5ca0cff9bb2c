"""Units as atoms, and which words have a meaning."""

from fractions import Fraction

from bench.seed.nodes import PI, Node, mul, number
from bench.seed.reading import units
from bench.seed.reading.functions import FUNCTIONS
from bench.seed.reading.tokens import Token, sign


def keeps_word(parser, factors: list[Node]) -> bool:
  """Whether the word ahead has a meaning next to an operand: a function, a name with scripts, a unit."""
  word = parser.peek()
  after = parser.peek(1)
  if word.kind == 'text':
    return False
  if word.text in FUNCTIONS:
    return True
  is_unit = units.lookup(word.text) is not None
  if parser.reading.units:
    return is_unit or after.kind in '^_' or sign(after) in ('\\Omega', '\\AA')
  follows_number = bool(factors) and all(factor.head in ('number', 'pow', 'mul', 'pi') for factor in factors)
  return after.kind in ('^', '_', '(', "'") or (follows_number and is_unit)


def short_unit(parser) -> Node | None:
  """Minutes and seconds, whose short names are functions if an argument follows."""
  token = parser.peek()
  after = sign(parser.peek(1))
  if token.kind not in ('word', 'command') or token.text not in ('min', 'sec', 'arcsec'):
    return None
  if after in ('(', '[', '{', '\\{', '_'):
    return None
  if after == '^' and token.text == 'sec':
    return None
  if parser.peek(1).kind in ('end', ')', '}', '/', '.', ',', '^', '*'):
    parser.next()
    return Node('unit', (), units.lookup(token.text))
  return None


def degree(parser, base: Node) -> Node:
  """A base with a degree sign: an angle, or with C or F a temperature."""
  if not parser.reading.units:
    return mul(base, PI, number(Fraction(1, 180)))
  name = 'deg'
  if scale_of_temperature(parser.peek()):
    name += parser.next().text
  return mul(base, Node('unit', (), units.lookup(name)))


def scale_of_temperature(token: Token) -> bool:
  """Whether a token after a degree sign is Celsius or Fahrenheit, in any font."""
  return token.kind in ('word', 'run', 'letter') and token.text in ('C', 'F')


def unit_atom(parser) -> Node | None:
  """The unit ahead, in unit mode; None, with nothing read, if there is none."""
  start = parser.at
  token = parser.next()
  unit = None
  if token.kind in ('word', 'run'):
    unit = _word_unit(parser, token.text)
  elif token.kind == 'command':
    unit = _command_unit(parser, token.text)
  if unit is None:
    parser.at = start
    return None
  return Node('unit', (), unit)


def _word_unit(parser, word: str) -> units.Unit | None:
  """The unit of a word, with an Ω or Å after it (kΩ) or a subscript."""
  if parser.ahead('\\Omega', '\\AA'):
    letter = 'Ω' if parser.peek().text == 'Omega' else 'Å'
    unit = units.lookup(word + letter)
    if unit:
      parser.next()
      return unit
  if parser.accept('_'):
    sub = parser.label()
    if sub:
      return units.CONSTANTS.get((word, sub))
  return units.lookup(word)


def _command_unit(parser, name: str) -> units.Unit | None:
  """The unit of a command: μ with a unit after it, Ω, Å, or a constant."""
  if name == 'mu' and parser.peek().kind in ('word', 'run', '{'):
    has_brace = parser.accept('{')
    unit = units.lookup('μ' + parser.next().text)
    if has_brace:
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
