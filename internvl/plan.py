"""The supervised fine-tuning step for `python -m core.plan`: abstract, so no weight is ever drawn."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from core import params, plan, train
from core.launch import field
from core.mesh import Shape, batch_sharding, shardings
from internvl import losses, model
from internvl.configs import CONFIGS as MODELS

TOTAL_STEPS = 8000


@dataclasses.dataclass(frozen=True)
class Config:
  """One optimiser step of SFT on packed rows (InternVL3.5: batch 512, 32768 tokens and 96 tiles a row, AdamW)."""

  model: str = field('8B', 'size, a name of internvl.configs.CONFIGS')
  batch: int = field(512, 'packed rows a step, over all devices')
  length: int = field(32768, 'tokens a packed row')
  tiles: int = field(96, 'image tiles a packed row')
  accumulate: int = field(1, 'micro-batches a step')
  remat: str = field('full', 'what the backward pass computes again: none, dots or full')
  optim: train.Optim = train.Optim(lr=8e-5, weight_decay=0.05, warmup_steps=240)
  mesh: Shape = Shape()

  def __post_init__(self):
    if self.model not in MODELS:
      raise ValueError(f'model={self.model!r}: expected one of {", ".join(MODELS)}')
    if min(self.batch, self.length, self.tiles, self.accumulate) < 1 or self.batch % self.accumulate:
      raise ValueError(f'batch={self.batch}, length={self.length}, tiles={self.tiles}: expected positive numbers, and '
                       f'a batch that is a multiple of accumulate={self.accumulate}')


CONFIGS = {
    **{name: Config(name) for name in MODELS if name not in ('241B-A28B', 'tiny')},
    '241B-A28B': Config('241B-A28B', mesh=Shape(expert=4, seq=2)),  # data=128 divides the tower's 3200
    'tiny': Config('tiny', batch=8, length=256, tiles=2),
}


def plan_step(config: Config, mesh: jax.sharding.Mesh) -> plan.Program:
  """The step that `core.train.make_step` makes of `losses.ntp`, and what to count of it.

  Master weights are float32: at these rates most updates are smaller than half a unit in the last place of a
  bfloat16 weight, and would be lost. Arithmetic is bfloat16.
  """
  m = MODELS[config.model]
  spec = model.spec(m)
  on = lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s)
  weights = jax.tree.map(on, params.abstract(spec), shardings(spec, mesh))
  tx = train.optimizer(config.optim, TOTAL_STEPS, spec)
  state = train.abstract_state(weights, tx)
  batch = jax.tree.map(lambda x: on(x, batch_sharding(x, mesh)), _batch(config, m))
  key = on(jax.eval_shape(lambda: jax.random.key(0)), jax.sharding.NamedSharding(mesh, jax.P()))

  def loss(weights, batch, key):
    return losses.ntp(weights, m, batch, key=key, dtype=jnp.bfloat16, remat_policy=config.remat)

  step = train.make_step(loss, tx, accumulate=config.accumulate)
  kinds = {'weights': weights, 'optimiser state': state.opt_state, 'batch': batch}
  return plan.Program(step, (state, None, batch, key), kinds, parts(config, m), config.batch, config.accumulate,
                      config.remat)


def _batch(config: Config, m: model.Config) -> losses.Batch:
  rows, side = (config.batch, config.length), m.vision.image_size
  ints, floats = jax.ShapeDtypeStruct(rows, jnp.int32), jax.ShapeDtypeStruct(rows, jnp.float32)
  pixels = jax.ShapeDtypeStruct((config.batch, config.tiles, side, side, 3), jnp.bfloat16)
  return losses.Batch(ints, ints, floats, pixels, ints)


def parts(config: Config, m: model.Config) -> tuple[plan.Part, ...]:
  """The towers. Attention counts the whole causal triangle of a packed row: its kernel skips no other sample's keys."""
  spec, language = model.spec(m), m.language
  tokens, tiles = config.batch * config.length, config.batch * config.tiles
  patches = 1 + m.vision.grid**2
  # QKᵀ and PV: 2 FLOPs a multiply-add, N·H products each, for every visible pair.
  seen = [min(config.length, w or config.length) for w in language.windows]
  pairs = np.mean([w * (w + 1) / 2 + (config.length - w) * w for w in seen]) * config.batch
  causal = 4.0 * language.heads * language.head_dim * language.depth * pairs
  full = 4.0 * m.vision.width * m.vision.depth * patches**2 * tiles
  head = 2.0 * language.width * language.vocab * tokens if language.tied else 0.0
  active = language.moe.top_k / language.moe.experts if language.moe else 1.0
  return (plan.Part('vision tower', spec.vision, tiles * patches, full, tensor=False),
          plan.Part('projector', spec.projector, tiles * m.tokens_per_tile, 0.0),
          plan.Part('language model', spec.language, tokens, causal, table=head, active=active))
