"""The value of an expression at a point, to many digits, with everything that could run away refused."""

from collections.abc import Callable

import mpmath

from bench.seed.nodes import Budget, Name, Node

MAX_FACTORIAL = 10_000
_MAX_EXPONENT = 10**15
_MAX_ANGLE = 10**12
_PRIVATE = mpmath.mp.clone()


class Undefined(Exception):
  """No value at this point: a pole, an overflow, or an operation without a numerical meaning."""


class Point:
  """Values for names, and notes on what an evaluation met.

  `crossed` is set when a root, a logarithm or an inverse function was taken of a number outside its real
  domain:
  there the branch chosen, not the answer, decides the value.
  """

  def __init__(self, values: dict[Name, object], digits: int, budget: Budget):
    self.values = values
    self.budget = budget
    self.crossed = False
    self.mp = _context(digits)


_CONTEXTS: dict[int, object] = {}


def _context(digits: int):
  if digits not in _CONTEXTS:
    _CONTEXTS[digits] = _PRIVATE.clone()
    _CONTEXTS[digits].dps = digits
  return _CONTEXTS[digits]


def evaluate(node: Node, point: Point):
  """A real or complex number, a 3-tuple for a vector or a matrix. Raises Undefined and TooLarge."""
  point.budget.spend(30)
  head = node.head
  if head == 'number':
    return point.mp.mpf(node.value.numerator) / node.value.denominator
  if head == 'symbol':
    if node.value not in point.values:
      raise Undefined(f'no value for {node.value}')
    return point.values[node.value]
  if head in _CONSTANTS:
    return _CONSTANTS[head](point.mp)
  if head == 'matrix':
    return _matrix(node, point)
  act = _ACTIONS.get(head)
  if act is None:
    raise Undefined(head)
  args = [evaluate(a, point) for a in node.args]
  try:
    return act(point, *args)
  except (ZeroDivisionError, ValueError, OverflowError, TypeError, ArithmeticError, NotImplementedError) as error:
    raise Undefined(head) from error


def _matrix(node, point):
  rows, columns = node.value
  cells = [evaluate(a, point) for a in node.args]
  if not all(map(is_scalar, cells)):
    raise Undefined('a matrix of matrices')
  return point.mp.matrix([cells[r * columns : (r + 1) * columns] for r in range(rows)])


_CONSTANTS: dict[str, Callable] = {
  'pi': lambda mp: +mp.pi,
  'e': lambda mp: +mp.e,
  'i': lambda mp: mp.mpc(0, 1),
  'infinity': lambda mp: mp.inf,
}


def is_vector(x) -> bool:
  """Whether the value is a vector."""
  return isinstance(x, tuple)


def is_matrix(x) -> bool:
  """Whether the value is a matrix."""
  return isinstance(x, mpmath.matrix) or hasattr(x, 'rows')


def is_scalar(x) -> bool:
  """Whether the value is a single number."""
  return not is_vector(x) and not is_matrix(x)


def _sum(point, *terms):
  total = terms[0]
  for term in terms[1:]:
    if is_vector(total) and is_vector(term):
      total = tuple(a + b for a, b in zip(total, term))
    elif is_matrix(total) != is_matrix(term):
      total, term = (_lift(point, x, total if is_matrix(total) else term) for x in (total, term))
      total = total + term
    elif is_vector(total) != is_vector(term):
      raise Undefined('a vector plus a number')
    else:
      total = total + term
  return total


def _lift(point, x, like):
  if is_matrix(x):
    return x
  return x * point.mp.eye(like.rows)


def _product(point, *factors):
  total = factors[0]
  for factor in factors[1:]:
    if is_vector(total) and is_vector(factor):
      total = _dot(point, total, factor)
    elif is_vector(total) or is_vector(factor):
      vector, scalar = (total, factor) if is_vector(total) else (factor, total)
      if not is_scalar(scalar):
        raise Undefined('a matrix times a vector')
      total = tuple(scalar * v for v in vector)
    else:
      total = total * factor
  return total


def _dot(_, a, b):
  return sum((x * y for x, y in zip(a, b, strict=True)), 0 * a[0])


def _cross(_, a, b):
  (x, y, z), (u, v, w) = a, b
  return y * w - z * v, z * u - x * w, x * v - y * u


def _real(x) -> bool:
  return not hasattr(x, 'imag') or x.imag == 0


def _power(point, base, exponent):
  mp = point.mp
  if not is_scalar(exponent):
    raise Undefined('a power that is no number')
  # Before anything asks whether it is whole: rounding 10^(10^10) would build all its digits.
  if abs(exponent) > _MAX_EXPONENT:
    raise Undefined('a power too large')
  if is_vector(base):
    if exponent != 2:
      raise Undefined('a power of a vector')
    return _dot(point, base, base)
  whole = _real(exponent) and exponent == mp.floor(exponent.real)
  if is_matrix(base):
    if not whole or abs(exponent) > 64:
      raise Undefined('a power of a matrix')
    return base ** int(exponent.real)
  if base == 0:
    if exponent.real <= 0:
      raise Undefined('zero to a negative power')
    return base * 0
  if abs(mp.mag(base)) * abs(exponent) > _MAX_EXPONENT:
    raise Undefined('a power too large')
  if whole:
    return base ** int(exponent.real)
  if _negative(base):
    point.crossed = True
  return mp.power(base, exponent)


def _negative(x) -> bool:
  return _real(x) and x.real < 0


def _scalar(limit: float, act: Callable) -> Callable:
  """A function of numbers no larger than `limit`."""

  def apply(point, x):
    if not is_scalar(x) or abs(x) > limit:
      raise Undefined('an argument too large')
    return act(point.mp, x)

  return apply


def _exp(point, x):
  if is_matrix(x):
    return point.mp.expm(x)
  if abs(x) > _MAX_EXPONENT:
    raise Undefined('an exponential too large')
  return point.mp.exp(x)


def _branched(act: Callable, outside: Callable) -> Callable:
  """A function with a branch cut; `outside` tells the real arguments for which it has no real value."""

  def apply(point, x):
    if not is_scalar(x):
      raise Undefined('a function of a vector')
    if _real(x) and outside(x.real):
      point.crossed = True
    return act(point.mp, x)

  return apply


def _absolute(point, x):
  if is_vector(x):
    return point.mp.sqrt(abs(_dot(point, x, x)))
  if is_matrix(x):
    return point.mp.det(x)
  return abs(x)


def _conjugate(point, x):
  if is_vector(x):
    return tuple(map(point.mp.conj, x))
  if is_matrix(x):
    return x.apply(point.mp.conj)
  return point.mp.conj(x)


def _determinant(point, x):
  if is_matrix(x):
    return point.mp.det(x)
  return x


def _binomial(point, n, k):
  if max(abs(n), abs(k)) > MAX_FACTORIAL:
    raise Undefined('a binomial too large')
  return point.mp.binomial(n, k)


def _extreme(pick: Callable) -> Callable:
  def apply(_, *xs):
    if not all(is_scalar(x) and _real(x) for x in xs):
      raise Undefined('no order')
    return pick(x.real for x in xs)

  return apply


def _zeta(mp, s):
  return mp.zeta(s)


_ACTIONS: dict[str, Callable] = (
  {
    'add': _sum,
    'mul': _product,
    'pow': _power,
    'dot': _dot,
    'cross': _cross,
    'exp': _exp,
    'abs': _absolute,
    'det': _determinant,
    'binomial': _binomial,
    'min': _extreme(min),
    'max': _extreme(max),
    'ln': _branched(lambda mp, x: mp.ln(x), lambda x: x < 0),
    'asin': _branched(lambda mp, x: mp.asin(x), lambda x: abs(x) > 1),
    'acos': _branched(lambda mp, x: mp.acos(x), lambda x: abs(x) > 1),
    'asec': _branched(lambda mp, x: mp.asec(x), lambda x: abs(x) < 1),
    'acsc': _branched(lambda mp, x: mp.acsc(x), lambda x: abs(x) < 1),
    'acosh': _branched(lambda mp, x: mp.acosh(x), lambda x: x < 1),
    'atanh': _branched(lambda mp, x: mp.atanh(x), lambda x: abs(x) > 1),
    'acoth': _branched(lambda mp, x: mp.acoth(x), lambda x: abs(x) < 1),
    'asech': _branched(lambda mp, x: mp.asech(x), lambda x: x < 0 or x > 1),
    're': _scalar(mpmath.inf, lambda mp, x: mp.re(x)),
    'im': _scalar(mpmath.inf, lambda mp, x: mp.im(x)),
    'arg': _scalar(mpmath.inf, lambda mp, x: mp.arg(x)),
    'sign': _scalar(mpmath.inf, lambda mp, x: mp.sign(x)),
    'conjugate': _conjugate,
    'floor': _scalar(_MAX_EXPONENT, lambda mp, x: mp.floor(x)),
    'ceil': _scalar(_MAX_EXPONENT, lambda mp, x: mp.ceil(x)),
    'factorial': _scalar(MAX_FACTORIAL, lambda mp, x: mp.factorial(x)),
    'factorial2': _scalar(MAX_FACTORIAL, lambda mp, x: mp.fac2(x)),
    'gamma': _scalar(MAX_FACTORIAL, lambda mp, x: mp.gamma(x)),
    'zeta': _scalar(40, _zeta),
    'erf': _scalar(100, lambda mp, x: mp.erf(x)),
    'erfc': _scalar(100, lambda mp, x: mp.erfc(x)),
  }
  | {
    f: _scalar(_MAX_ANGLE, lambda mp, x, f=f: getattr(mp, f)(x))
    for f in ('sin', 'cos', 'tan', 'cot', 'sec', 'csc', 'atan', 'acot', 'asinh', 'acsch')
  }
  | {f: _scalar(10**9, lambda mp, x, f=f: getattr(mp, f)(x)) for f in ('sinh', 'cosh', 'tanh', 'coth', 'sech', 'csch')}
)
