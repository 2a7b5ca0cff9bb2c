r"""Formulas of chemistry as mhchem writes them, in plain LaTeX: \ce{2H2 + O2 -> 2H2O}, \ce{SO4^2-}, \ce{^{14}C}."""

import re

from bench.seed.nodes import ParseError

_PIECES = re.compile(
  r"""
  (?P<arrow><=>|<->|->|<-)(?:\[[^\[\]]*\]){0,2}
  | \((?P<state>aq|s|l|g)\)
  | (?P<element>[A-Z][a-z]?)(?P<count>\d*)
  | (?P<closing>[)\]])(?P<times>\d*)
  | (?P<script>[_^])(?:\{(?P<group>[^{}]*)\}|(?P<bare>\d*[+-]|\d+))
  | (?P<charge>(?<=[A-Za-z\d)\]}])[+-](?=\s|$|[)\]]))
  | (?P<dot>[.*](?=\s*\d*[A-Z]))
  | (?P<other>\d+|[(\[+]|e(?=-|\^)|\s+)
  """,
  re.VERBOSE,
)
_ARROWS = {'->': r'\to ', '<-': r'\gets ', '<->': r'\to ', '<=>': r'\to '}


def plain_formula(text: str) -> str:
  """A formula or a reaction in upright letters. Raises ParseError for what is neither, such as bonds and free text."""
  written = []
  at = 0
  while at < len(text):
    piece = _PIECES.match(text, at)
    if piece is None:
      raise ParseError(f'unexpected {text[at : at + 10]!a} in a formula of chemistry')
    written.append(_plain(piece))
    at = piece.end()
  return rf'\mathrm{{{"".join(written)}}}'


def _plain(piece: re.Match) -> str:
  """One piece as LaTeX: an element with its count, a bracket, a script, a charge, an arrow."""
  if piece['arrow']:
    return _ARROWS[piece['arrow']]
  if piece['state']:
    return f'_{{{piece["state"]}}}'
  if piece['element']:
    return piece['element'] + _subscript(piece['count'])
  if piece['closing']:
    return piece['closing'] + _subscript(piece['times'])
  if piece['script']:
    return f'{piece["script"]}{{{piece["group"] or piece["bare"]}}}'
  if piece['charge']:
    return f'^{{{piece["charge"]}}}'
  if piece['dot']:
    return r'\cdot '
  return piece['other']


def _subscript(count: str) -> str:
  if count:
    return f'_{{{count}}}'
  return ''
