r"""Which symbols of a pair take complex values, and which are each other's conjugates.

Symbols are positive reals, except where that would hide what an answer says: Re, Im, arg and a conjugate tell
nothing about real numbers. What they act on is complex in both answers alike, unless it writes its imaginary
part out, as in \operatorname{Re}(a+ib).
"""

import itertools
from collections.abc import Iterable

from bench.seed.nodes import Name, Node, heads, names, walk

STAND_IN = '▪'
_PARTS = frozenset(('re', 'im', 'arg', 'conjugate'))
_TELLING = _PARTS | {'abs'}
_CONJUGATE_MARKS = frozenset(('*', 'bar'))
# Wave functions: the modulus of one is not the wave function.
_AMPLITUDES = frozenset(('\\psi', '\\Psi'))


def unconjugated(name: Name) -> Name:
  """The name without stars and bars."""
  kept = [mark for mark in name.marks if mark not in _CONJUGATE_MARKS]
  return name._replace(marks=tuple(kept))


def is_conjugate(name: Name) -> bool:
  """Whether the name is the conjugate of its `unconjugated` name."""
  count = 0
  for mark in name.marks:
    if mark in _CONJUGATE_MARKS:
      count += 1
  return count % 2 == 1


def complex_names(trees: tuple[Node, ...], ordered: frozenset[Name]) -> frozenset[Name]:
  """Names, without stars and bars, that are complex in these trees; `ordered` are operators and never are."""
  telling = _telling_nodes(trees)
  if not telling:
    return frozenset()
  seen = set()
  for tree in trees:
    seen.update(names(tree))
  paired = {unconjugated(name) for name in seen if is_conjugate(name)}
  found = set()
  for node in telling:
    found.update(_inside(node, paired, seen))
  vectors = {name for name in found if 'vec' in name.marks}
  return frozenset(found - vectors - ordered)


def _telling_nodes(trees: tuple[Node, ...]) -> list[Node]:
  """The nodes that say something of phases: parts, conjugates and moduli."""
  nodes = itertools.chain.from_iterable(map(walk, trees))
  return [node for node in nodes if node.head in _TELLING]


def _inside(node: Node, paired: set[Name], seen: set[Name]) -> Iterable[Name]:
  """The complex names under one node."""
  is_modulus = node.head == 'abs'
  is_written_out = 'i' in heads(node)
  for name in names(node):
    plain = unconjugated(name)
    has_partner = plain in paired
    if is_modulus:
      has_partner = has_partner and plain in seen
      is_complex = plain.base in _AMPLITUDES
    else:
      is_complex = not is_written_out
    if plain.base == STAND_IN or has_partner or is_complex:
      yield plain
