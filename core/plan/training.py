"""The `Program` of a step of `core.training.steps`, abstract, so no weight is ever drawn."""

from collections.abc import Callable
from typing import Any

import jax

from core.mesh import batch_sharding
from core.plan.program import Part, Program
from core.training import steps


def training(
  make_step: Callable,
  tx: Any,
  weights: tuple[Any, Any],
  batch: Any,
  mesh: jax.sharding.Mesh,
  *,
  parts: tuple[Part, ...],
  rows: int,
  micro_batches: int,
  remat: str,
) -> Program:
  """What a run of `core.training.steps` compiles on `mesh`, and what to count of it.

  make_step: from the state's shardings, as the keyword `places`, to the jitted step. weights: (trainable, frozen),
  abstract and placed. batch: abstract, without shardings; it lies where `core.mesh.to_global` puts it.
  """
  on = lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s)
  state = steps.abstract_state(weights[0], tx)
  batch = jax.tree.map(lambda x: on(x, batch_sharding(x, mesh)), batch)
  key = on(jax.eval_shape(lambda: jax.random.key(0)), jax.NamedSharding(mesh, jax.P()))
  step = make_step(places=jax.tree.map(lambda x: x.sharding, state))
  kinds = {'weights': weights, 'optimiser state': state.opt_state, 'batch': batch}
  return Program(step, (state, weights[1], batch, key), kinds, parts, rows, micro_batches, remat)
