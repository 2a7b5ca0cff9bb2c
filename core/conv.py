"""Causal convolutions over time, channel-last, with the state of a stream as a value.

Each function returns (y, state): given the state that the previous piece of a stream returned, the pieces join to what
one call on the whole stream computes. Without a state the stream begins, after zeros. A strided layer has a kernel of
twice its stride, so each output block sees two input blocks and the layer is two matrix products.

B batch   T time   I, O channels in and out   K kernel   S stride
"""

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
  weight = Spec((kernel, inputs, outputs), (None, None, None), init, inputs=2)
  return Conv(weight=weight, bias=_bias(outputs))


def depthwise_spec(kernel: int, channels: int, init=None) -> Conv:
  """Weights of `depthwise`."""
  return Conv(weight=Spec((kernel, channels), (None, None), init), bias=_bias(channels))


def down_spec(stride: int, inputs: int, outputs: int, init=None) -> Conv:
  """Weights of `down`: [0] multiplies the previous block, [1] the present one."""
  weight = Spec((2, stride, inputs, outputs), (None, None, None, None), init, inputs=3)
  return Conv(weight=weight, bias=_bias(outputs))


def up_spec(stride: int, inputs: int, outputs: int, init=None) -> Conv:
  """Weights of `up`: [0] multiplies the present frame, [1] the previous one."""
  weight = Spec((2, inputs, stride, outputs), (None, None, None, None), init, inputs=2)
  return Conv(weight=weight, bias=_bias(outputs))


def _bias(outputs: int) -> Spec:
  return Spec((outputs,), (None,), zeros)


def causal(x: jax.Array, w: Conv, state: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
  """Convolution [B, T, I] to [B, T, O] of stride 1; the state is the last K - 1 inputs [B, K - 1, I]."""
  kernel = w.weight.shape[0]
  seen = _after(x, state, kernel - 1)
  time = x.shape[1]
  y = w.bias
  for k in range(kernel):
    y = y + jnp.einsum('bti,io->bto', seen[:, k : k + time], w.weight[k])
  return y, seen[:, time:]


def depthwise(x: jax.Array, w: Conv, state: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
  """Convolution of each channel with itself, [B, T, C] to [B, T, C]; the state is the last K - 1 inputs."""
  kernel = w.weight.shape[0]
  seen = _after(x, state, kernel - 1)
  time = x.shape[1]
  y = w.bias
  for k in range(kernel):
    y = y + seen[:, k : k + time] * w.weight[k]
  return y, seen[:, time:]


def down(x: jax.Array, w: Conv, state: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
  """Strided convolution [B, T, I] to [B, T / S, O]; the state is the last block [B, S, I].

  Raises ValueError when T is not a multiple of the stride.
  """
  stride, inputs = w.weight.shape[1:3]
  rows, time, _ = x.shape
  if time % stride:
    raise ValueError(f'convolution of stride {stride}: {time} inputs; expected a multiple of the stride')
  blocks = _after(x, state, stride).reshape(rows, -1, stride, inputs)
  y = jnp.einsum('btsi,sio->bto', blocks[:, :-1], w.weight[0])
  y = y + jnp.einsum('btsi,sio->bto', blocks[:, 1:], w.weight[1])
  return y + w.bias, blocks[:, -1]


def up(x: jax.Array, w: Conv, state: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
  """Transposed convolution [B, T, I] to [B, T S, O], cut on the right only; the state is the last frame [B, 1, I]."""
  _, _, stride, outputs = w.weight.shape
  seen = _after(x, state, 1)
  rows, time, _ = x.shape
  y = jnp.einsum('bti,iso->btso', seen[:, 1:], w.weight[0])
  y = y + jnp.einsum('bti,iso->btso', seen[:, :-1], w.weight[1])
  y = y + w.bias  # once a sample, though two products make it
  return y.reshape(rows, time * stride, outputs), seen[:, time:]


def _after(x: jax.Array, state: jax.Array | None, length: int) -> jax.Array:
  """x [B, T, I] after the `length` inputs before it."""
  if state is None:
    return jnp.pad(x, ((0, 0), (length, 0), (0, 0)))
  return jnp.concatenate([state.astype(x.dtype), x], 1)


def select(rows: jax.Array, new: Any, old: Any) -> Any:
  """States (a tree of [..., B, K, C]) that are `new` where bool `rows` [B] says so, else `old`, bit for bit."""
  chosen = rows[:, None, None]
  return jax.tree.map(lambda a, b: jnp.where(chosen, a, b), new, old)


def reset(rows: jax.Array, state: Any) -> Any:
  """States with those of bool `rows` [B] at zero: a new stream begins there."""
  return select(rows, jax.tree.map(jnp.zeros_like, state), state)
