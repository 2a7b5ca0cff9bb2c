"""The `Program` of a step of `core.training.steps`, abstract, so no weight is ever drawn."""

from collections.abc import Callable
from typing import Any

import jax

from core.mesh import batch_sharding, shardings
from core.params import path_name
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
  carry: Any = None,
  reference: Any = None,
  note: str = '',
) -> Program:
  """The program that a run of `core.training.steps` compiles on `mesh`, and the parts to count.

  make_step: from the state's shardings, as the keyword `places`, to the jitted step. weights: (trainable, frozen),
  abstract, with shardings. batch: abstract, without shardings; it is sharded as `core.mesh.to_global` does. carry: the
  state of the loss. reference: frozen weights that the loss compares with, abstract, with shardings. note: as of
  `Program`.
  """
  trainable, frozen = weights
  state = steps.abstract_state(trainable, tx, carry)
  batch = jax.tree.map(lambda x: _placed(x, batch_sharding(x, mesh)), batch)
  key = jax.eval_shape(lambda: jax.random.key(0))
  key = _placed(key, jax.NamedSharding(mesh, jax.P()))
  step = make_step(places=jax.tree.map(lambda x: x.sharding, state))
  args = (state, frozen, batch, key)
  kinds = {'weights': weights, 'optimiser state': state.opt_state, 'batch': batch}
  if reference is not None:
    args = (*args, reference)
    kinds['reference'] = reference
  return Program(
    step=step,
    args=args,
    kinds=kinds,
    parts=parts,
    rows=rows,
    micro_batches=micro_batches,
    remat=remat,
    note=note,
  )


def place(weights: Any, spec: Any, mesh: jax.sharding.Mesh) -> Any:
  """Abstract weights (trees of them), each where its `Spec` puts it; factors of adapters on every device."""
  places = {path_name(path): s for path, s in jax.tree.leaves_with_path(shardings(spec, mesh))}
  everywhere = jax.NamedSharding(mesh, jax.P())

  def on(path, x):
    home = places.get(path_name(path).removesuffix('.base'), everywhere)
    return _placed(x, home)

  return jax.tree.map_with_path(on, weights)


def _placed(x, sharding: jax.sharding.Sharding) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
