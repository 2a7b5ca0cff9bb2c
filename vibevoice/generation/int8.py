"""Weight-only int8: half the bytes of bfloat16 in each step, for one rounding of each weight."""

from typing import Any

from core import params as params_lib
from kernels.head import arguments

# Of a TTS model, and of both stacks of a Realtime one; embedding, output matrix and tokenizers keep their dtype.
MATRICES = r'(language|lower|upper)\.blocks\.(attn\.[qkvo]|mlp\.(gate|up|down))'


def quantised(params: Any) -> Any:
  """The weights with the language model's projections as `core.params.Int8`."""
  return params_lib.map_weights(lambda _, w: params_lib.to_int8(w), params, MATRICES)


def head_quantised(params: Any) -> Any:
  """The weights with the diffusion head's feed-forwards as `core.params.Int8`."""
  return params.replace(head=arguments.quantised(params.head))
