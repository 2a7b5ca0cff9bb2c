"""What the tokenizers' encoder and decoder share: stages of ConvNeXt-like blocks behind a resampling convolution.

All layers are causal, channel-last and compute in float32 for weights of any dtype: in bfloat16, pieces of a recording
would visibly differ from one call.

B batch   T time   C channels of a stage   K kernel
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from core import conv
from core.layers import gelu, rms_norm
from core.params import Spec, cast, ones, stacked, walk, zeros
from vibevoice.config import TokenizerConfig

# (x, weights, state) -> (y, state): `core.conv.down` or `core.conv.up`
Resample = Callable[[jax.Array, conv.Conv, jax.Array], tuple[jax.Array, jax.Array]]


@struct.dataclass(kw_only=True)
class Block:
  """Weights of one block: a depthwise mixer and a feed-forward, each behind a norm and scaled by channel."""

  norm: Any  # [C]
  mixer: conv.Conv
  gamma: Any  # [C]
  mlp_norm: Any
  up: Any  # [C, 4C]
  up_bias: Any
  down: Any  # [4C, C]
  down_bias: Any
  mlp_gamma: Any


@struct.dataclass
class Stage:
  """A convolution and the blocks after it, stacked on a layer axis or as a tuple, which may be empty."""

  conv: conv.Conv
  blocks: Any


@struct.dataclass
class Params:
  """Weights of an encoder or decoder. stages: by number, in the order of the computation; the first is the stem."""

  stages: dict[int, Stage]
  head: conv.Conv


@struct.dataclass
class StageState:
  """Inputs that a stage has still to see: of its convolution [B, ., C], of its mixers [layers, B, K - 1, C]."""

  conv: jax.Array
  blocks: Any


@struct.dataclass
class State:
  """What a stream carries from piece to piece, per row."""

  stages: dict[int, StageState]
  head: jax.Array


def initialiser(config: TokenizerConfig) -> Callable | None:
  """Draws weights from a normal of the config's deviation; None: by fan-in."""
  if config.init_std is None:
    return None
  return lambda key, shape, dtype: (config.init_std * jax.random.normal(key, shape)).astype(dtype)


def stage_spec(config: TokenizerConfig, entry: conv.Conv, channels: int, depth: int) -> Stage:
  """Weights of the stage behind the convolution `entry`."""
  if not depth:
    return Stage(conv=entry, blocks=())  # arrays of no layers could not be saved while training
  return Stage(conv=entry, blocks=stacked(_block_spec(config, channels), depth))


def _block_spec(config: TokenizerConfig, channels: int) -> Block:
  init = initialiser(config)
  wide = config.mlp_ratio * channels
  norm = Spec((channels,), (None,), ones)
  gamma = Spec((channels,), (None,), lambda key, shape, dtype: jnp.full(shape, config.layer_scale, dtype))
  return Block(
    norm=norm,
    mixer=conv.depthwise_spec(config.kernel, channels, init),
    gamma=gamma,
    mlp_norm=norm,
    up=Spec((channels, wide), (None, 'mlp'), init),
    up_bias=Spec((wide,), ('mlp',), zeros),
    down=Spec((wide, channels), ('mlp', None), init),
    down_bias=Spec((channels,), (None,), zeros),
    mlp_gamma=gamma,
  )


def initial(
  params: Params, config: TokenizerConfig, rows: int, *, inputs: int, entries: Sequence[int], widths: Sequence[int]
) -> State:
  """The state before a stream of `rows`, all zeros: causal layers begin after silence.

  inputs: channels of the first convolution. entries: inputs that the convolution of each stage remembers.
  """
  channels = (inputs, *widths)
  stages = {}
  for i, stage in params.stages.items():
    mixer = jnp.zeros((rows, config.kernel - 1, widths[i]))
    conv = jnp.zeros((rows, entries[i], channels[i]))
    stages[i] = StageState(conv=conv, blocks=_per_block(stage.blocks, mixer))
  return State(stages=stages, head=jnp.zeros((rows, config.kernel - 1, widths[-1])))


def _per_block(blocks: Any, state: jax.Array) -> Any:
  """`state` once a block, in the form that `core.params.walk` wants of these blocks."""
  if isinstance(blocks, tuple):
    return (state,) * len(blocks)
  depth = blocks.gamma.shape[0]
  return jnp.broadcast_to(state, (depth, *state.shape))


def apply(
  params: Params, config: TokenizerConfig, x: jax.Array, state: State, *, resample: Resample, ceil: Sequence[int] = ()
) -> tuple[jax.Array, State]:
  """(output [B, T', O], state) of one piece x [B, T, I] of a stream.

  ceil: strides by stage (of the stem 1) to whose multiples the input of a stage is padded on the right with zeros, for
  the end of a stream only; () pads nothing.
  """
  params = cast(params, jnp.float32)
  x = x.astype(jnp.float32)
  states = {}
  with jax.default_matmul_precision('float32'):
    for i, stage in params.stages.items():
      if ceil:
        x = _pad_to_multiple(x, ceil[i])
      enter = conv.causal if i == 0 else resample
      x, entry = enter(x, stage.conv, state.stages[i].conv)
      x, mixers = _blocks(stage.blocks, config, x, state.stages[i].blocks)
      states[i] = StageState(conv=entry, blocks=mixers)
    x, head = conv.causal(x, params.head, state.head)
  return x, State(stages=states, head=head)


def _pad_to_multiple(x: jax.Array, stride: int) -> jax.Array:
  missing = -x.shape[1] % stride
  return jnp.pad(x, ((0, 0), (0, missing), (0, 0)))


def _blocks(blocks: Any, config: TokenizerConfig, x: jax.Array, states: Any) -> tuple[jax.Array, Any]:
  def layer(x, i, block, state):
    return _block(block, config, x, state)

  return walk(layer, x, blocks, states)


def _block(p: Block, config: TokenizerConfig, x: jax.Array, state: jax.Array) -> tuple[jax.Array, jax.Array]:
  """x [B, T, C] through one block. The state holds normalised inputs: what the mixer saw."""
  mixed, state = conv.depthwise(rms_norm(x, p.norm, config.eps), p.mixer, state)
  x = x + p.gamma * mixed
  # As a matrix of B T rows: XLA for CPU computes the gradients of three-dimensional products a third slower.
  rows = rms_norm(x, p.mlp_norm, config.eps).reshape(-1, x.shape[-1])
  hidden = gelu(rows @ p.up + p.up_bias)
  y = (hidden @ p.down + p.down_bias).reshape(x.shape)
  return x + p.mlp_gamma * y, state
