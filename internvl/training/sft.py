"""The training step, used by training (`internvl.train`) and by planning (`core.plan`).

B rows   T tokens a row   n tiles a row   S side of a tile
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from core import params as params_lib
from core.training import lora, optim, steps
from internvl import losses, model
from internvl.flash import router
from internvl.losses import window
from internvl.training.configs import Config


def model_config(c: Config, m: model.Config) -> model.Config:
  """The model as it is trained: with the run's stochastic depth."""
  return dataclasses.replace(m, vision=dataclasses.replace(m.vision, drop_path=c.drop_path))


def adapt(c: Config, m: model.Config, params: model.Params) -> tuple[Any, Any]:
  """(trainable, frozen) parts of the parameters, adapters added if asked for; the frozen part in `c.dtype`.

  Raises ValueError when a pattern matches nothing, or a weight that cannot have an adapter.
  """
  trainable = c.trainable or (router.TRAINED if c.objective == 'routing' else '.*')
  if c.lora.rank:
    params = lora.adapt(
      jax.random.key(c.seed), params, model.spec(m), c.lora.pattern, rank=c.lora.rank, alpha=c.lora.alpha
    )
    trainable = c.trainable or rf'(?:{c.lora.pattern})\.[ab]'
  trained, frozen = steps.partition(params, trainable)
  return trained, params_lib.cast(frozen, c.dtype)


def optimizer(c: Config, m: model.Config):
  """The optimiser and its schedule over the whole run."""
  return optim.optimizer(c.optim, c.steps, model.spec(m))


def make_step(c: Config, m: model.Config, *, places: Any = None):
  """The jitted step of `core.training.steps.make_step` on a `losses.Batch`; ViCO's takes the reference as well."""
  loss = OBJECTIVES[c.objective](c, model_config(c, m))
  return steps.make_step(loss, optimizer(c, m), accumulate=c.accumulate, places=places)


def carry(c: Config) -> window.Window | None:
  """What the loss remembers from step to step: the window of loss ratios of ViCO's second stage."""
  if c.objective == 'routing':
    return window.empty(c.vico.window)
  return None


def _next_token(c: Config, m: model.Config) -> Callable[..., steps.Loss]:
  dtype = jnp.dtype(c.dtype)

  def loss(params, batch, key):
    options = {'dtype': dtype, 'remat_policy': c.remat, 'balance': c.balance}
    random = c.drop_path or m.flash  # stochastic depth, or dropout of the compact projector
    return losses.ntp(params, m, batch, key=key if random else None, **options)

  return loss


def _consistency(c: Config, m: model.Config) -> Callable[..., steps.Loss]:
  dtype = jnp.dtype(c.dtype)

  def loss(params, batch, key, *, reference):
    options = {'dtype': dtype, 'remat_policy': c.remat}
    return losses.vico.consistency(params, m, batch, reference=reference, key=key, **options)

  return loss


def _routing(c: Config, m: model.Config) -> Callable[..., steps.Loss]:
  dtype = jnp.dtype(c.dtype)

  def loss(params, batch, key, recent, *, reference):
    options = {'dtype': dtype, 'k': c.vico.percentile, 'epsilon': c.vico.epsilon}
    return losses.vico.routing(params, m, batch, recent, reference=reference, key=key, **options)

  return loss


OBJECTIVES = {'next_token': _next_token, 'consistency': _consistency, 'routing': _routing}


def abstract_batch(c: Config, m: model.Config) -> losses.Batch:
  """The shapes and dtypes of a step's batch."""
  side = m.vision.image_size
  ints, floats = (jax.ShapeDtypeStruct((c.batch, c.length), dtype) for dtype in (jnp.int32, jnp.float32))
  pixels = jax.ShapeDtypeStruct((c.batch, c.tiles, side, side, 3), jnp.dtype(c.dtype))
  by_tile = jax.ShapeDtypeStruct((c.batch, c.tiles), jnp.int32)
  return losses.Batch(
    tokens=ints,
    positions=ints,
    weights=floats,
    pixels=pixels,
    segments=ints,
    tile_tokens=by_tile,
    tile_segments=by_tile,
    tile_images=by_tile,
  )
