"""Next-token prediction, as a weighted sum (`core.training.steps.Loss`)."""

import jax
import jax.numpy as jnp
import numpy as np

from core import decoder
from core.mesh import RULES
from core.params import cast
from core.training.steps import Loss
from internvl import model
from internvl.losses.batch import Batch

AVERAGING = ('token', 'sample', 'square')


def token_weights(mask: np.ndarray, averaging: str) -> np.ndarray:
  """Loss weight of each token of one sample, float32 [T], from its mask (InternVL3.5 §3.2, square averaging).

  With x learned tokens a token weighs 1 ('token'), 1/x ('sample') or 1/√x ('square').
  """
  if averaging not in AVERAGING:
    raise ValueError(f'averaging={averaging!r}; expected one of {AVERAGING}')
  x = max(int(mask.sum()), 1)
  return mask.astype(np.float32) * {'token': 1.0, 'sample': 1 / x, 'square': x**-0.5}[averaging]


def ntp(
  params: model.Params,
  config: model.Config,
  batch: Batch,
  *,
  key: jax.Array | None = None,
  dtype=jnp.float32,
  remat_policy: str = 'none',
  rules=RULES,
  balance: float = 0.0,
) -> Loss:
  """Next-token prediction: Σ w·CE over Σ w of the whole batch (the paper's global average).

  key: switches stochastic depth of the vision tower, and dropout of Flash's compact projector, on. dtype: of the
  computation; parameters keep their own. balance: coefficient of the load-balancing loss (`core.moe.balance`) of a
  mixture of experts.
  """
  out = model.forward(
    cast(params, dtype),
    config,
    batch.tokens,
    pixels=batch.pixels,
    tile_tokens=batch.tile_tokens if config.flash else None,
    positions=batch.positions,
    segments=batch.segments,
    drop_key=key,
    remat_policy=remat_policy,
    rules=rules,
  )
  language = cast(params.language, dtype)
  targets = batch.tokens[:, 1:]
  before = out.hidden[:, :-1]
  logp, _ = decoder.log_probs(language, config.language, before, targets, rules=rules)
  weights = batch.weights[:, 1:]
  total = -jnp.sum(weights * logp)
  weight = jnp.sum(weights)
  is_scored = weights > 0
  is_confident = logp > jnp.log(0.5)
  hits = jnp.sum(is_scored * is_confident)
  notes = {'confident': (hits, jnp.sum(is_scored))}
  if config.language.moe is not None:
    notes['balance'] = (out.balance * weight, weight)
  return Loss(total + balance * out.balance * weight, weight, notes)
