"""The diffusion head: predicts the velocity of a noisy latent from one hidden state of the language model.

R rows   C latent   D width   F feed-forward   S sinusoids. No row sees another; every projection is without bias.
"""

from typing import Any

import jax
import jax.numpy as jnp

from core.layers import rms_norm, sinusoids
from core.params import Spec, einsum, ones, stacked, walk, zeros
from core.params import init as draw
from kernels.head.arguments import Block, Params
from vibevoice.config import HeadConfig

MAX_PERIOD = 10_000.0  # of the timestep's sinusoids


def _narrow(key, shape, dtype):
  """Initialiser of the timestep's projections: normal of standard deviation 0.02."""
  return (0.02 * jax.random.normal(key, shape)).astype(dtype)


def spec(config: HeadConfig) -> Params:
  """Every weight, once. Modulations and the output start at 0: each layer is then the identity, the velocity 0."""
  d = config.width
  c = config.latent
  wide = Spec((d, config.mlp_width), ('embed', 'mlp'))
  block = Block(
    norm=Spec((d,), (None,), ones),
    modulation=Spec((d, 3, d), ('embed', None, 'mlp'), zeros),
    gate=wide,
    up=wide,
    down=Spec((config.mlp_width, d), ('mlp', 'embed')),
  )
  return Params(
    noise=Spec((c, d), (None, 'embed')),
    condition=Spec((d, d), ('embed', 'mlp')),
    time_in=Spec((config.frequency_width, d), (None, 'embed'), _narrow),
    time_out=Spec((d, d), ('embed', 'mlp'), _narrow),
    blocks=stacked(block, config.depth),
    modulation=Spec((d, 2, d), ('embed', None, 'mlp'), zeros),
    out=Spec((d, c), ('embed', None), zeros),
  )


def init(key: jax.Array, config: HeadConfig, dtype=jnp.float32) -> Params:
  """Random weights as training starts with them."""
  return draw(key, spec(config), dtype)


def embed_time(params: Params, timesteps: jax.Array) -> jax.Array:
  """Embeddings [R, D] of timesteps [R], real numbers from 0 to 999."""
  dtype = params.time_in.dtype
  # The published code rounds t to the weights' dtype before the sinusoids; bfloat16 makes 1000 of 999.
  rounded = timesteps.astype(dtype)
  waves = sinusoids(rounded, params.time_in.shape[0], MAX_PERIOD).astype(dtype)
  hidden = jax.nn.silu(einsum('rs,sd->rd', waves, params.time_in))
  return einsum('rd,de->re', hidden, params.time_out)


def project_condition(params: Params, condition: jax.Array) -> jax.Array:
  """The part [R, D] of the modulation's input that hidden states [R, D] give; the same at all timesteps."""
  return einsum('rd,de->re', condition, params.condition)


def denoise(params: Params, noisy: jax.Array, modulator: jax.Array, eps: float) -> jax.Array:
  """The velocity [R, C] of noisy latents [R, C]; modulator [R, D]: projected condition plus embedded time."""
  active = jax.nn.silu(modulator)

  def layer(u, i, block: Block):
    shift, scale, gate = _modulation(active, block.modulation)
    m = rms_norm(u, block.norm, eps) * (1 + scale) + shift
    hidden = jax.nn.silu(einsum('rd,df->rf', m, block.gate)) * einsum('rd,df->rf', m, block.up)
    return u + gate * einsum('rf,fd->rd', hidden, block.down), None

  u = einsum('rc,cd->rd', noisy, params.noise)
  u, _ = walk(layer, u, params.blocks)
  shift, scale = _modulation(active, params.modulation)
  unscaled = jnp.ones((), u.dtype)  # the last norm has no weight
  last = rms_norm(u, unscaled, eps) * (1 + scale) + shift
  return einsum('rd,dc->rc', last, params.out)


def _modulation(active: jax.Array, weight: Any) -> tuple[jax.Array, ...]:
  """The rows' modulating vectors, each [R, D], in the order of the weight's middle axis."""
  vectors = einsum('rd,dpe->pre', active, weight)
  return tuple(vectors)


def velocity(params: Params, config: HeadConfig, noisy: jax.Array, timesteps: jax.Array, condition: jax.Array):
  """The predicted velocity [R, C] of noisy latents [R, C] at timesteps [R], given hidden states [R, D]."""
  modulator = project_condition(params, condition) + embed_time(params, timesteps)
  return denoise(params, noisy, modulator, config.eps)
