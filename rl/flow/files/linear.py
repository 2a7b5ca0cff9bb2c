"""Where linear layers live in a checkpoint; torch stores outputs first."""

from core.files.weights import From
from rl.flow.mmdit.params import Linear


def linear(name: str, *, pattern: str = 'o i -> i o', bias: str = '', first: int = 0) -> Linear:
  """The weight and the bias under `name`, split as the patterns say."""
  weight = From(f'{name}.weight', pattern, first=first)
  return Linear(weight=weight, bias=From(f'{name}.bias', bias, first=first))
