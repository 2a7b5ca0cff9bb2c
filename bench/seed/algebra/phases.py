r"""Which symbols of a pair take complex values, and which are each other's conjugates.

Symbols are positive reals, except where that would hide what an answer says: Re, Im, arg and a conjugate tell
nothing about real numbers. What they act on is complex in both answers alike, unless it writes its imaginary
part out, as in \operatorname{Re}(a+ib).
"""

from collections.abc import Iterable

from bench.seed.nodes import Name, Node, heads, names, walk

STAND_IN = '▪'
_PARTS = frozenset(('re', 'im', 'arg', 'conjugate'))
_CONJUGATE_MARKS = frozenset(('*', 'bar'))
# Wave functions: the modulus of one is not the wave function.
_AMPLITUDES = frozenset(('\\psi', '\\Psi'))


def unconjugated(name: Name) -> Name:
  """The name without stars and bars."""
  return name._replace(marks=tuple(m for m in name.marks if m not in _CONJUGATE_MARKS))


def is_conjugate(name: Name) -> bool:
  """Whether the name is the conjugate of its `unconjugated` name."""
  return sum(m in _CONJUGATE_MARKS for m in name.marks) % 2 == 1


def complex_names(trees: tuple[Node, ...], ordered: frozenset[Name]) -> frozenset[Name]:
  """Names, without stars and bars, that are complex in these trees; `ordered` are operators and never are."""
  nodes = [n for t in trees for n in walk(t) if n.head in _PARTS or n.head == 'abs']
  if not nodes:
    return frozenset()
  seen = {name for t in trees for name in names(t)}
  paired = {unconjugated(n) for n in seen if is_conjugate(n)}
  found = {name for node in nodes for name in _inside(node, paired, seen)}
  return frozenset(n for n in found if n not in ordered and 'vec' not in n.marks)


def _inside(node: Node, paired: set[Name], seen: set[Name]) -> Iterable[Name]:
  """The complex names under one node."""
  real = node.head == 'abs' or 'i' in heads(node)
  for name in map(unconjugated, names(node)):
    with_partner = name in paired and (node.head != 'abs' or name in seen)
    amplitude = node.head == 'abs' and name.base in _AMPLITUDES
    if name.base == STAND_IN or with_partner or amplitude or not real:
      yield name
