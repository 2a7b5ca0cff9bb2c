r"""Commands that put one thing over, under or through another, written out as plain LaTeX: \overset, \xrightarrow, …"""

import re

from bench.seed.nodes import ParseError, words

ANNOTATIONS = words('overset stackrel underset substack cancelto pmod pod xrightarrow xleftarrow xleftrightarrow')
# What is written over a letter instead of an accent.
_ACCENTS = {
  r'\rightarrow': 'vec',
  r'\to': 'vec',
  r'\longrightarrow': 'vec',
  r'\cdot': 'dot',
  r'\cdot\cdot': 'ddot',
  r'\sim': 'tilde',
  r'\wedge': 'hat',
  '-': 'bar',
}
_SIGN = re.compile(
  r'[=<>]|\\(?:sim|simeq|approx|equiv|cong|propto|leq?|geq?|neq?|to|gets|(?:long)?(?:left|right)arrow)'
)
_LIMITS = re.compile(r'\\(?:sum|prod|int|bigcup|bigcap|lim|max|min|sup|inf|arg|operatorname)(?![A-Za-z])')
_ARROWS = {'xrightarrow': r'\to ', 'xleftarrow': r'\gets ', 'xleftrightarrow': r'\to '}


def annotated(name: str, take, optional) -> str:
  """The plain LaTeX of a command of ANNOTATIONS.

  `take()` reads its next argument, `optional()` drops one in square brackets. Raises ParseError for something over or
  under a letter that is no accent and no index.
  """
  if name in _ARROWS:  # what is above and below an arrow is a condition
    optional()
    take()
    return _ARROWS[name]
  first = take()
  if name == 'substack':
    return first.replace(r'\\', ', ')
  if name in ('pmod', 'pod'):
    return rf'\bmod {{{first}}} '
  if name == 'cancelto':
    take()
    return f'{{{first}}}'
  return _over_or_under(name, first.strip(), take().strip())


def _over_or_under(name: str, note: str, base: str) -> str:
  """`base` with a note: nothing at a sign of a relation, limits at a sum, an accent or an index at a letter."""
  if _SIGN.fullmatch(base):
    return f'{base} '
  if name == 'underset':
    return f'{base}_{{{note}}}'
  if _LIMITS.match(base):
    return f'{base}^{{{note}}}'
  accent = _ACCENTS.get(note.replace(' ', ''))
  if accent is None:
    raise ParseError(f'{note!r} over {base!r} is no accent')
  return rf'\{accent}{{{base}}}'
