"""The acoustic tokenizer against discriminators, as DAC trains (arXiv 2306.06546, §3.4), one step of both at a time.

    loss = reconstruction + w_adv Σ_k E(1 - D_k(made))² + w_feat Σ_k,l |D_k,l(made) - D_k,l(recorded)|
           + Σ_k E D_k(made)² + E(1 - D_k(recorded))²

The terms of the first line move the tokenizer alone, those of the second the discriminators alone, so that their sum is
one loss. DAC takes the two steps in turn; here both start from the same weights.

B batch   N samples
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import struct

from core.training.steps import Loss
from vibevoice import tokenizer
from vibevoice.config import TokenizerConfig
from vibevoice.training import discriminators, reconstruction


@struct.dataclass
class Params:
  """What is trained; the discriminators are thrown away afterwards."""

  tokenizer: tokenizer.Params
  discriminators: discriminators.Params


@dataclasses.dataclass(frozen=True)
class Weights:
  """How much the parts count against the tokenizer; the defaults are DAC's."""

  adversarial: float = 1.0
  features: float = 2.0


DEFAULT = reconstruction.Weights()


def spec(config: TokenizerConfig, judges: discriminators.Config) -> Params:
  """Every weight, once."""
  return Params(tokenizer=tokenizer.spec(config), discriminators=discriminators.spec(judges))


def loss(
  params: Params,
  config: TokenizerConfig,
  batch: reconstruction.Batch,
  key: jax.Array,
  *,
  weights: reconstruction.Weights = DEFAULT,
  against: Weights = Weights(),
) -> Loss:
  """The sum above; all metrics are weighted, and add up to it."""
  made, parts = reconstruction.parts(params.tokenizer, config, batch, key, weights=weights)
  judges = jax.lax.stop_gradient(params.discriminators)
  recorded = discriminators.apply(judges, batch.wav)
  heard = discriminators.apply(judges, made)
  scores = [features[-1] for features in heard]
  parts['adversarial'] = against.adversarial * sum(_mean((1 - score) ** 2) for score in scores)
  parts['features'] = against.features * _feature_distance(heard, recorded)
  parts['discriminator'] = _told_apart(params.discriminators, batch.wav, jax.lax.stop_gradient(made))
  return reconstruction.summed(parts, batch.weight)


def _feature_distance(heard: list[list[jax.Array]], recorded: list[list[jax.Array]]) -> jax.Array:
  """Mean absolute differences [B] of the features before each verdict, summed over layers and discriminators."""
  pairs = []
  for of_made, of_recorded in zip(heard, recorded):
    pairs += zip(of_made[:-1], of_recorded[:-1])
  return sum(_mean(jnp.abs(a - b)) for a, b in pairs)


def _told_apart(judges: discriminators.Params, recorded: jax.Array, made: jax.Array) -> jax.Array:
  """Least-squares loss [B] of the discriminators: 1 for what was recorded, 0 for what was made."""
  of_recorded = [features[-1] for features in discriminators.apply(judges, recorded)]
  of_made = [features[-1] for features in discriminators.apply(judges, made)]
  total = 0
  for right, wrong in zip(of_recorded, of_made):
    total = total + (_mean((1 - right) ** 2) + _mean(wrong**2))
  return total


def _mean(x: jax.Array) -> jax.Array:
  """Of each row [B]."""
  return x.mean(tuple(range(1, x.ndim)))
