"""Two scales of latents: z, what the tokenizer makes and takes, and y, what the connector and the head see.

Both scalars are constants: measured once on a training set, stored with the weights, never trained.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from core.params import Spec, ones, zeros


@struct.dataclass
class Params:
  """y = (z + bias) scale."""

  scale: Any  # []
  bias: Any  # []


def spec() -> Params:
  """Both scalars; at first they change nothing."""
  return Params(scale=Spec((), (), ones), bias=Spec((), (), zeros))


def to_model(p: Params, z: jax.Array) -> jax.Array:
  """Latents float32 [...] as the language model and the head see them."""
  scale, bias = _constants(p)
  return (z.astype(jnp.float32) + bias) * scale


def to_tokenizer(p: Params, y: jax.Array) -> jax.Array:
  """Latents float32 [...] as the acoustic decoder wants them."""
  scale, bias = _constants(p)
  return y.astype(jnp.float32) / scale - bias


def _constants(p: Params) -> tuple[jax.Array, jax.Array]:
  fixed = jax.lax.stop_gradient(p)
  return fixed.scale.astype(jnp.float32), fixed.bias.astype(jnp.float32)


def measure(z: jax.Array, mask: jax.Array) -> Params:
  """The scalars that give latents [B, F, C] mean 0 and deviation 1, over the frames where `mask` [B, F] is true."""
  z = z.astype(jnp.float32)
  weight = jnp.broadcast_to(mask[..., None], z.shape).astype(jnp.float32)
  mean = jnp.average(z, weights=weight)
  variance = jnp.average((z - mean) ** 2, weights=weight)
  return Params(scale=1 / jnp.sqrt(variance), bias=-mean)
