"""The step that `vibevoice.train` repeats: what is trained, its optimiser, and its loss on a batch."""

from __future__ import annotations

import re
from typing import Any

import jax
import jax.numpy as jnp

from core import params as params_lib
from core.training import lora, optim, steps
from core.training.average import averaged, replaced
from vibevoice import model
from vibevoice.config import Config as ModelConfig
from vibevoice.training import losses
from vibevoice.training.configs import Config

HEAD = r'head\..*'
DROPOUT = 1  # folded into the key of a step


def adapt(c: Config, config: ModelConfig, params: model.Params) -> tuple[Any, Any]:
  """(trainable float32, frozen in `c.dtype`) parts of the parameters, with adapters if asked for.

  Raises ValueError when a pattern matches nothing, and for tokenizers and scaling, which are constants.
  """
  pattern = c.trainable
  if c.lora.rank:
    key = jax.random.key(c.seed)
    spec = model.spec(config)
    params = lora.adapt(key, params, spec, c.lora.pattern, rank=c.lora.rank, alpha=c.lora.alpha)
    pattern = rf'(?:{c.lora.pattern})\.[ab]|(?:{c.trainable})'
  trained, frozen = steps.partition(params, pattern)
  names = [params_lib.path_name(path) for path, _ in jax.tree.leaves_with_path(trained)]
  constant = [name for name in names if not re.fullmatch(losses.TRAINABLE, name)]
  if constant:
    raise ValueError(f'trainable={c.trainable!r} matches {constant[0]}; tokenizers and scaling are constants')
  return params_lib.cast(trained, jnp.float32), params_lib.cast(frozen, c.dtype)


def make_step(c: Config, config: ModelConfig, *, places: Any = None):
  """The jitted step of `core.training.steps.make_step` on a `losses.Batch`; `places` as there."""
  weights = losses.Weights(ce=c.ce_weight, diffusion=c.diffusion_weight)

  def loss(params, batch, key):
    if c.lora.rank and c.lora.dropout:
      params = lora.with_dropout(params, jax.random.fold_in(key, DROPOUT), c.lora.dropout)
    draws = losses.draw(key, batch.latents, c.repeats)
    options = {'prompt_semantic': c.prompt_semantic, 'dtype': jnp.dtype(c.dtype), 'remat_policy': c.remat}
    return losses.tts(params, config, batch, draws, weights=weights, **options)

  return steps.make_step(loss, optimizer(c, config), accumulate=c.accumulate, places=places)


def optimizer(c: Config, config: ModelConfig):
  """The optimiser and its schedule over the whole run, and the average of the head if asked for."""
  tx = optim.optimizer(c.optim, c.steps, model.spec(config))
  if c.ema:
    return averaged(tx, c.ema, HEAD)
  return tx


def final(c: Config, state: steps.TrainState) -> Any:
  """The trained part of the parameters that is exported."""
  if c.ema:
    return replaced(state.params, state.opt_state)
  return state.params
