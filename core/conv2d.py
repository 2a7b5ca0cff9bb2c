"""Convolutions over images, channel-last.

B batch   Y, X rows and columns   I, O channels in and out   K kernel
"""

import jax

from core.conv import Conv
from core.params import Spec, zeros


def conv2d_spec(kernel: int, inputs: int, outputs: int) -> Conv:
  """Weights of `conv2d`: [K, K, I, O] and a bias [O]."""
  weight = Spec((kernel, kernel, inputs, outputs), (None, None, None, None), inputs=3)
  return Conv(weight=weight, bias=Spec((outputs,), (None,), zeros))


def conv2d(x: jax.Array, w: Conv, *, stride: int = 1, padding: tuple[int, int] | None = None) -> jax.Array:
  """Convolution [B, Y, X, I] to [B, Y / stride, X / stride, O].

  padding: zeros (before, after) the pixels of both axes; by default what keeps an odd kernel's centre on each pixel.
  """
  if padding is None:
    margin = w.weight.shape[0] // 2
    padding = (margin, margin)
  dimensions = ('NHWC', 'HWIO', 'NHWC')
  y = jax.lax.conv_general_dilated(x, w.weight, (stride, stride), (padding, padding), dimension_numbers=dimensions)
  return y + w.bias
