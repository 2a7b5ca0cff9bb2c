"""The velocity of a transformer with guidance.

R rows   T text tokens   Y, X, C rows, columns and channels of latents
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from core.mesh import RULES
from rl.flow import mmdit


@struct.dataclass
class Condition:
  """What a velocity depends on in addition to latents and time. context: [R, T, D]; pooled: [R, P].

  nothing: the condition of an empty prompt, [1, T, D] and [1, P], needed where guidance takes two passes.
  """

  context: Any
  pooled: Any
  nothing: Any = None


def velocity(
  params: mmdit.Params,
  config: mmdit.Config,
  x: jax.Array,
  time: jax.Array,
  condition: Condition,
  *,
  guidance: float = 1.0,
  remat: str = 'none',
  rules: dict = RULES,
) -> jax.Array:
  """float32 [R, Y, X, C] of latents x [R, Y, X, C] at times [R].

  guidance: given to the network where it takes one (FLUX.1-dev); else v_empty + guidance·(v − v_empty), in one pass
  over both, or no second pass for 1 (arXiv 2207.12598).
  """
  options = {'remat_policy': remat, 'rules': rules}
  apply = lambda x, time, context, pooled, **more: mmdit.apply(
    params, config, x, time, context, pooled, **options, **more
  ).velocity.astype(jnp.float32)
  context = condition.context
  pooled = condition.pooled
  rows = x.shape[0]
  if config.guidance:
    return apply(x, time, context, pooled, guidance=jnp.full(rows, guidance, jnp.float32))
  if guidance == 1:
    return apply(x, time, context, pooled)
  empty_context, empty_pooled = condition.nothing
  both = lambda a, b: jnp.concatenate([a, jnp.broadcast_to(b, a.shape)])
  double = apply(
    jnp.concatenate([x, x]), jnp.concatenate([time, time]), both(context, empty_context), both(pooled, empty_pooled)
  )
  conditioned, empty = jnp.split(double, 2)
  return empty + guidance * (conditioned - empty)
