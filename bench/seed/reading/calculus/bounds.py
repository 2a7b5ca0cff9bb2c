"""Bounds and indices: the scripts of integrals, sums, limits and operators."""

from bench.seed.nodes import Name, Node, ParseError
from bench.seed.reading.tokens import Token, label, sign

BLANK = Node('symbol', (), Name('·'))


def read_bounds(parser) -> dict[str, list[Token]]:
  """The scripts that follow, by '_' and '^'."""
  bounds = {}
  while parser.ahead('_', '^'):
    kind = parser.next().kind
    bounds[kind] = parser.script()
  return bounds


def bound(parser, tokens: list[Token] | None) -> Node:
  """A bound as an expression, or as a label if it names a region or is absent."""
  if not tokens:
    return BLANK
  signs = {sign(token) for token in tokens}
  if signs & {',', '\\langle'}:
    return Node('symbol', (), Name('region', _indices(tokens, is_pair='\\langle' in signs)))
  try:
    return parser.inner(tokens)
  except ParseError:
    return Node('symbol', (), Name('region', label(tokens)))


def _indices(tokens: list[Token], *, is_pair: bool) -> tuple[str, ...]:
  """Several indices as a label: their order does not matter, nor do the commas in a pair ⟨i,j⟩ of neighbours."""
  if is_pair:
    return tuple(part for part in label(tokens) if part != ',')
  labels = sorted(label(piece) for piece in _split_commas(tokens))
  return tuple(part for index in labels for part in (*index, ','))


def _split_commas(tokens: list[Token]) -> list[list[Token]]:
  """The pieces of a list of indices between its commas."""
  pieces: list[list[Token]] = [[]]
  for token in tokens:
    if token.kind == ',':
      pieces.append([])
    else:
      pieces[-1].append(token)
  return pieces
