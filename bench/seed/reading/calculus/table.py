"""Command → the function that reads what follows it."""

from bench.seed.reading.calculus.derivatives import fraction, nabla, partial, physics_derivative
from bench.seed.reading.calculus.integrals import indexed, integral, limit

_INTEGRALS = ('int', 'iint', 'iiint', 'oint')

COMMANDS = {
  'frac': fraction,
  'sum': indexed('sum'),
  'prod': indexed('product'),
  'bigcup': indexed('bigunion'),
  'bigcap': indexed('bigintersection'),
  'lim': limit,
  'partial': partial,
  'nabla': nabla,
  'dv': physics_derivative,
  'pdv': physics_derivative,
} | {name: integral(name) for name in _INTEGRALS}
