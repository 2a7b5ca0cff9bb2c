"""Channel-last convolutions: causal ones over time, with the state of a stream as a value, and over images.

Each causal function returns (y, state): given the state that the previous piece of a stream returned, the pieces join
to what one call on the whole stream computes. Without a state the stream begins, after zeros. A strided layer has a
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
  """A weight of which each output sums over the first `summed` dimensions, and a bias of its last."""
  weight = Spec(shape, (None,) * len(shape), init, inputs=summed)
  bias = Spec(shape[-1:], (None,), zeros)
  return Conv(weight=weight, bias=bias)


def causal(x: jax.Array, w: Conv, state: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
  """Convolution [B, T, I] to [B, T, O] of stride 1; the state is the last K - 1 inputs [B, K - 1, I]."""
  _, inputs, outputs = w.weight.shape
  if outputs < inputs:
    return _few_outputs(x, w, state)
  return _over_taps(x, w, state, functools.partial(jnp.einsum, 'bti,io->bto'))


def _few_outputs(x: jax.Array, w: Conv, state: jax.Array | None) -> tuple[jax.Array, jax.Array]:
  """`causal` that multiplies each input once, by all taps, and shifts the narrow outputs in place of the inputs."""
  kernel = w.weight.shape[0]
  time = x.shape[1]
  seen = _after(x, state, kernel - 1)
  products = jnp.einsum('bti,kio->bkto', seen, w.weight)
  y = w.bias
  for k in range(kernel):
    y = y + products[:, k, k : k + time]
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
    y = y + product(shifted, w.weight[k])
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
  seen = _after(x, state, 1)
  rows, time, _ = x.shape
  previous = seen[:, :-1]
  present = seen[:, 1:]
  product = functools.partial(jnp.einsum, 'bti,iso->btso')
  y = product(present, w.weight[0])
  y = y + product(previous, w.weight[1])
  y = y + w.bias  # once a sample, though two products make it
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
  return jax.tree.map(lambda a, b: jnp.where(chosen, a, b), new, old)


def reset(rows: jax.Array, state: Any) -> Any:
  """States with those of bool `rows` [B] at zero: a new stream begins there."""
  beginning = jax.tree.map(jnp.zeros_like, state)
  return select(rows, beginning, state)


def conv2d_spec(kernel: int | tuple[int, int], inputs: int, outputs: int) -> Conv:
  """Weights of `conv2d`: [K, K, I, O] and a bias [O]; kernel: of rows and columns, or one size of both."""
  rows, columns = _pair(kernel)
  return _spec((rows, columns, inputs, outputs), None, summed=3)


def conv2d(
  x: jax.Array, w: Conv, *, stride: int | tuple[int, int] = 1, padding: tuple[int, int] | None = None
) -> jax.Array:
  """Convolution [B, Y, X, I] to [B, Y / stride, X / stride, O]; stride: of rows and columns, or one of both.

  padding: zeros (before, after) the pixels of both axes; by default what keeps an odd kernel's centre on each pixel.
  """
  margins = [padding, padding]
  if padding is None:
    margins = [(size // 2, size // 2) for size in w.weight.shape[:2]]
  dimensions = ('NHWC', 'HWIO', 'NHWC')
  y = jax.lax.conv_general_dilated(x, w.weight, _pair(stride), margins, dimension_numbers=dimensions)
  return y + w.bias


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
  if isinstance(size, int):
    return (size, size)
  return size
