"""Channel-last convolutions: causal ones over time, with the state of a stream as a value, and over images.

Each causal function returns (y, state). Called piece by piece, each with the state of the piece before, it computes
what one call on the whole stream computes. Without a state a stream begins, as if after zeros. A strided layer has a
kernel of twice its stride, so each output block sees two input blocks and the layer is two matrix products.

B batch   T time   Y, X rows and columns   I, O channels in and out   K kernel   S stride
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from core.params import Spec, zeros


@struct.dataclass
class Conv:
  """Weights of one layer: [K, I, O] plain, [K, C] depthwise, [2, S, I, O] down, [2, I, S, O] up; and a bias [O]."""

  weight: Any
  bias: Any


def plain_spec(kernel: int, inputs: int, outputs: int, init=None) -> Conv:
  """Weights of `causal`. init: initialiser of the weight; the bias begins at zero."""
  shape = (kernel, inputs, outputs)
  return _spec(shape, init, summed=2)


def depthwise_spec(kernel: int, channels: int, init=None) -> Conv:
  """Weights of `depthwise`."""
  shape = (kernel, channels)
  return _spec(shape, init, summed=1)


def down_spec(stride: int, inputs: int, outputs: int, init=None) -> Conv:
  """Weights of `down`: [0] multiplies the previous block, [1] the present one."""
  shape = (2, stride, inputs, outputs)
  return _spec(shape, init, summed=3)


def up_spec(stride: int, inputs: int, outputs: int, init=None) -> Conv:
  """Weights of `up`: [0] multiplies the present frame, [1] the previous one."""
  shape = (2, inputs, stride, outputs)
  return _spec(shape, init, summed=2)


def _spec(shape: tuple[int, ...], init, summed: int) -> Conv:
  """A weight whose outputs each sum over its first `summed` dimensions, and a bias of its last dimension."""
  replicated = (None,) * len(shape)
  weight = Spec(shape, replicated, init, inputs=summed)
  bias = Spec(shape[-1:], (None,), zeros)
  return Conv(weight=weight, bias=bias)


def causal(x: jax.Array, w: Conv, state: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
  """Convolution [B, T, I] to [B, T, O] of stride 1; the state is the last K - 1 inputs [B, K - 1, I]."""
  _, inputs, outputs = w.weight.shape
  if outputs < inputs:
    return _few_outputs(x, w, state)
  product = functools.partial(jnp.einsum, 'bti,io->bto')
  return _over_taps(x, w, state, product)


def _few_outputs(x: jax.Array, w: Conv, state: jax.Array | None) -> tuple[jax.Array, jax.Array]:
  """`causal` by one product with all taps, whose narrow outputs are then shifted, where `_over_taps` shifts inputs."""
  kernel = w.weight.shape[0]
  time = x.shape[1]
  seen = _after(x, state, kernel - 1)
  products = jnp.einsum('bti,kio->bkto', seen, w.weight)
  y = w.bias
  for k in range(kernel):
    shifted = products[:, k, k : k + time]
    y = y + shifted
  rest = seen[:, time:]
  return y, rest


def depthwise(x: jax.Array, w: Conv, state: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
  """Convolution of each channel with itself, [B, T, C] to [B, T, C]; the state is the last K - 1 inputs."""
  return _over_taps(x, w, state, jnp.multiply)


def _over_taps(x: jax.Array, w: Conv, state: jax.Array | None, product: Callable) -> tuple[jax.Array, jax.Array]:
  """The sum of `product(inputs k steps later, weight k)` over the K taps, and the state after x."""
  kernel = w.weight.shape[0]
  seen = _after(x, state, kernel - 1)
  time = x.shape[1]
  y = w.bias
  for k in range(kernel):
    shifted = seen[:, k : k + time]
    tap = w.weight[k]
    y = y + product(shifted, tap)
  rest = seen[:, time:]
  return y, rest


def down(x: jax.Array, w: Conv, state: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
  """Strided convolution [B, T, I] to [B, T / S, O]; the state is the last block [B, S, I].

  Raises ValueError when T is not a multiple of the stride.
  """
  _, stride, inputs, _ = w.weight.shape
  rows, time, _ = x.shape
  if time % stride:
    raise ValueError(f'convolution of stride {stride}: {time} inputs; expected a multiple of the stride')
  seen = _after(x, state, stride)
  blocks = seen.reshape(rows, -1, stride, inputs)
  previous = blocks[:, :-1]
  present = blocks[:, 1:]
  last = blocks[:, -1]
  product = functools.partial(jnp.einsum, 'btsi,sio->bto')
  y = product(previous, w.weight[0])
  y = y + product(present, w.weight[1])
  return y + w.bias, last


def up(x: jax.Array, w: Conv, state: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
  """Transposed convolution [B, T, I] to [B, T S, O], cut on the right only; the state is the last frame [B, 1, I]."""
  _, _, stride, outputs = w.weight.shape
  rows, time, _ = x.shape
  seen = _after(x, state, 1)
  previous = seen[:, :-1]
  present = seen[:, 1:]
  product = functools.partial(jnp.einsum, 'bti,iso->btso')
  y = product(present, w.weight[0])
  y = y + product(previous, w.weight[1])
  y = y + w.bias  # once a sample, though it is the sum of two products
  samples = y.reshape(rows, time * stride, outputs)
  last = seen[:, time:]
  return samples, last


def _after(x: jax.Array, state: jax.Array | None, length: int) -> jax.Array:
  """x [B, T, I] after the `length` inputs before it."""
  if state is None:
    return jnp.pad(x, ((0, 0), (length, 0), (0, 0)))
  before = state.astype(x.dtype)
  return jnp.concatenate([before, x], 1)


def select(rows: jax.Array, new: Any, old: Any) -> Any:
  """States (a tree of [..., B, K, C]) that are `new` where bool `rows` [B] says so, else `old`, bit for bit."""
  chosen = rows[:, None, None]
  one = functools.partial(jnp.where, chosen)
  return jax.tree.map(one, new, old)


def reset(rows: jax.Array, state: Any) -> Any:
  """States with those of bool `rows` [B] at zero: a new stream begins there."""
  beginning = jax.tree.map(jnp.zeros_like, state)
  return select(rows, beginning, state)


def conv2d_spec(kernel: int | tuple[int, int], inputs: int, outputs: int) -> Conv:
  """Weights of `conv2d`: [K, K, I, O] and a bias [O]; kernel: of rows and columns, or one size of both."""
  rows, columns = _pair(kernel)
  shape = (rows, columns, inputs, outputs)
  return _spec(shape, None, summed=3)


def conv2d(
  x: jax.Array, w: Conv, *, stride: int | tuple[int, int] = 1, padding: tuple[int, int] | None = None
) -> jax.Array:
  """Convolution [B, Y, X, I] to [B, Y / stride, X / stride, O]; stride: of rows and columns, or one of both.

  padding: zeros (before, after) the pixels of both axes; by default what keeps an odd kernel's centre on each pixel.
  """
  if padding is None:
    rows, columns, _, _ = w.weight.shape
    vertical = (rows // 2, rows // 2)
    horizontal = (columns // 2, columns // 2)
  else:
    vertical = padding
    horizontal = padding
  y = jax.lax.conv_general_dilated(
    x,
    w.weight,
    window_strides=_pair(stride),
    padding=[vertical, horizontal],
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
  )
  return y + w.bias


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
  if isinstance(size, int):
    return (size, size)
  return size
