"""The supervised fine-tuning step, abstractly, for `python -m core.plan`."""

import dataclasses

import jax
import jax.numpy as jnp

from core import decoder, params, plan, train
from core.launch import field
from core.mesh import RULES, Shape, batch_sharding, shardings
from internvl import model
from internvl.configs import CONFIGS as MODELS


@dataclasses.dataclass(frozen=True)
class Config:
  """One optimiser step of SFT on packed rows."""

  model: str = field('8B', 'size, a name of internvl.configs.CONFIGS')
  batch: int = field(512, 'packed rows a step, over all devices')
  length: int = field(32768, 'tokens a packed row')
  tiles: int = field(96, 'image tiles a packed row, at most')
  accumulate: int = field(1, 'micro-batches a step')
  remat: str = field('full', 'what the backward pass recomputes: none, dots or full')
  optim: train.Optim = train.Optim(weight_decay=0.05, warmup_steps=240)
  mesh: Shape = Shape()


CONFIGS = {
    '8B': Config('8B'),
    '241B-A28B': Config('241B-A28B', mesh=Shape(model=2)),
    'tiny': Config('tiny', batch=8, length=256, tiles=2),
}
TOTAL_STEPS = 8000


def loss(weights: model.Params, batch: dict, key, *, config: model.Config, remat: str) -> train.Loss:
  """Weighted next-token cross entropy of packed rows; arithmetic in bfloat16, sums in float32."""
  import os
  weights = params.cast(weights, jnp.bfloat16)
  out = model.forward(weights, config, batch['tokens'], pixels=batch['pixels'] if not os.environ.get('NOPIX') else None, positions=batch['positions'],
                      segments=batch['segments'], remat_policy=remat)
  logp, _ = decoder.log_probs(weights.language, config.language, out.hidden, batch['targets'])
  weight = batch['weights'].sum()
  return train.Loss(-(logp * batch['weights']).sum() + out.aux * weight, weight)


def plan_step(config: Config, mesh) -> plan.Program:
  m = MODELS[config.model]
  spec = model.spec(m)
  place = lambda tree, places: jax.tree.map(
      lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, places)
  weights = place(params.abstract(spec), shardings(spec, mesh))
  tx = train.optimizer(config.optim, TOTAL_STEPS, spec)
  state = jax.eval_shape(lambda w: train.init_state(w, tx), weights)
  by_shape = {s.shape: p for s, p in zip(jax.tree.leaves(spec), jax.tree.leaves(shardings(spec, mesh)))}
  everywhere = jax.sharding.NamedSharding(mesh, jax.P())
  opt = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=by_shape.get(x.shape, everywhere)), state.opt_state)
  state = state.replace(step=jax.ShapeDtypeStruct((), jnp.int32, sharding=everywhere), params=weights, opt_state=opt)
  b, t, s = config.batch, config.length, m.vision.image_size
  ints = jax.ShapeDtypeStruct((b, t), jnp.int32)
  batch = {'tokens': ints, 'targets': ints, 'positions': ints, 'segments': ints,
           'weights': jax.ShapeDtypeStruct((b, t), jnp.float32),
           'pixels': jax.ShapeDtypeStruct((b, config.tiles, s, s, 3), jnp.bfloat16)}
  batch = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=batch_sharding(x, mesh)), batch)
  key = jax.ShapeDtypeStruct((), jax.eval_shape(lambda: jax.random.key(0)).dtype, sharding=everywhere)
  fn = lambda w, batch, key: loss(w, batch, key, config=m, remat=config.remat)
  step = train.make_step(fn, tx, accumulate=config.accumulate)
  return plan.Program(step, (state, None, batch, key), {'weights': weights, 'optimiser': opt, 'batch': batch}, ())
