"""What a zygote has done before the first fork: imports, and the first use that fills the libraries' caches."""

_PYTHON = '''
import array, bisect, cmath, collections, copy, csv, dataclasses, datetime, decimal, enum, fractions, functools, heapq
import itertools, json, math, operator, random, re, statistics, string, textwrap, time, typing
'''
_NUMPY = _PYTHON + '''
import numpy, numpy.linalg, numpy.random
numpy.linalg.solve(numpy.eye(2), numpy.ones(2))
'''
_SYMPY = _NUMPY + '''
import mpmath, sympy
_x = sympy.Symbol('x')
sympy.solve(_x**2 - 2, _x)
sympy.integrate(_x**2 * sympy.exp(_x), _x)
sympy.simplify(sympy.sin(_x)**2 + sympy.cos(_x)**2)
'''
_SCIPY = _SYMPY + '''
import scipy, scipy.integrate, scipy.linalg, scipy.optimize, scipy.special
'''
PROFILES = {'python': _PYTHON, 'numpy': _NUMPY, 'sympy': _SYMPY, 'scipy': _SCIPY}
