r"""Named functions: how their argument is found, with and without brackets, and what \sin^{-1} means."""

from bench.seed.nodes import E, Node, ParseError, divide, number, power, words
from bench.seed.reading.products import is_vector, times
from bench.seed.reading.tokens import sign

_TRIG = ('sin', 'cos', 'tan', 'cot', 'sec', 'csc')
_HYPERBOLIC = tuple(f'{f}h' for f in _TRIG)
INVERSE = {f: f'a{f}' for f in _TRIG + _HYPERBOLIC}

# The spelling of each function to its head.
FUNCTIONS = (
  {f: f for f in INVERSE}
  | {f'arc{f}': a for f, a in INVERSE.items()}
  | {
    'arsinh': 'asinh',
    'arcosh': 'acosh',
    'artanh': 'atanh',
    'arcoth': 'acoth',
    'cosec': 'csc',
    'cotanh': 'coth',
    'asin': 'asin',
    'acos': 'acos',
    'atan': 'atan',
    'asinh': 'asinh',
    'acosh': 'acosh',
    'atanh': 'atanh',
    'ln': 'ln',
    'log': 'log',
    'lg': 'lg',
    'exp': 'exp',
    'sqrt': 'sqrt',
    'Re': 're',
    'Im': 'im',
    'arg': 'arg',
    'sgn': 'sign',
    'sign': 'sign',
    'abs': 'abs',
    'norm': 'abs',
    'det': 'det',
    'tr': 'trace',
    'Tr': 'trace',
    'trace': 'trace',
    'min': 'min',
    'max': 'max',
    'erf': 'erf',
    'erfc': 'erfc',
    'Arg': 'arg',
    'Ln': 'ln',
    'Log': 'log',
    'Real': 're',
    'Imag': 'im',
  }
)
_BRACKETS = {'(': ')', '[': ']', '\\{': '\\}', '{': '}'}


def apply(parser, name: str) -> Node:
  """The function whose name has just been read, applied to the argument that follows."""
  head = FUNCTIONS[name]
  if head == 'sqrt':
    return _root(parser)
  exponent = None
  base = None
  while parser.ahead('^', '_'):
    if parser.next().kind == '^':
      exponent = parser.inner(parser.script())
    else:
      base = parser.script()
  args = _arguments(parser)
  if exponent == number(-1) and head in INVERSE:
    head = INVERSE[head]
    exponent = None
  node = _call(parser, head, base, args)
  if exponent:
    return power(node, exponent)
  return node


def _call(parser, head, base, args):
  if head in ('ln', 'log', 'lg'):
    (arg,) = _one(args)
    base = parser.inner(base) if base else number(10) if head == 'lg' else parser.reading.log_base
    if head == 'log' and base == '10':
      base = number(10)
    if isinstance(base, Node):
      return divide(Node('ln', (arg,)), Node('ln', (base,)))
    return Node('ln', (arg,))
  if head in ('min', 'max'):
    return Node(head, tuple(args))
  (arg,) = _one(args)
  if base:
    return Node('at', (Node(head, (arg,)),), tuple(map(sign, base)))
  if head == 'exp':
    return power(E, arg)
  return Node(head, (arg,))


def _one(args):
  if len(args) != 1:
    raise ParseError(f'a function of one argument was given {len(args)}')
  return args


def _root(parser):
  index = None
  if parser.accept('['):
    (index,) = parser.group(']')
  arg = parser.group(')')[0] if parser.accept('(') else parser.argument()
  return power(arg, power(index or number(2), number(-1)))


def _arguments(parser) -> list[Node]:
  """What is in brackets, or the factors up to the next sign, bracket or function."""
  token = parser.peek()
  if token.kind in _BRACKETS:
    parser.next()
    return parser.group(_BRACKETS[token.kind])
  return [_bare(parser)]


def _bare(parser) -> Node:
  negative = parser.accept('-')
  factors = []
  while parser.operand_ahead(first=not factors) and not (factors and _ends(parser, factors)):
    factor = parser.factor()
    if factor is None:
      break
    factors.append(factor)
    if is_vector(factor) and parser.ahead('\\cdot') and sign(parser.peek(1)) in ('\\vec', '\\hat'):
      parser.next()
      factors[-1] = times('\\cdot', factor, parser.factor())
  if not factors:
    raise ParseError('a function without an argument')
  factors = [number(-1), *factors] if negative else factors
  if len(factors) > 1:
    return Node('mul', tuple(factors))
  return factors[0]


def _ends(parser, factors) -> bool:
  """Whether what comes next no longer belongs to the argument: sin x cos y, cos kx (1 + …), sin x e^{…}."""
  token = parser.peek()
  if token.kind in ('(', '[', '\\{', '|', 'open|'):
    return not all(f.head == 'number' for f in factors)
  if token.kind == 'letter':
    return token.text == 'e' and parser.peek(1).kind == '^'
  return token.kind in ('command', 'word', 'text') and (
    token.text in FUNCTIONS or token.text in _NEVER_INSIDE or token.kind == 'text'
  )


_NEVER_INSIDE = words('sum prod int iint iiint oint lim nabla langle partial begin')
