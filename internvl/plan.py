"""The supervised fine-tuning step for `python -m core.plan`: abstract, so no weight is ever drawn."""

import jax
import numpy as np

from core import params as params_lib
from core import plan, train
from core.mesh import batch_sharding, shardings
from internvl import model, sft
from internvl.configs import CONFIGS as SIZES
from internvl.train_configs import Config


def plan_step(config: Config, mesh: jax.sharding.Mesh) -> plan.Program:
  """The step that `internvl.train` runs on `mesh`, and what to count of it.

  Master weights are float32: at the rates of fine-tuning most updates are smaller than half a unit in the last place
  of a bfloat16 weight, and would be lost. Arithmetic is in `config.dtype`. Raises plan.PlanError when `config.model`
  is not the name of a size.
  """
  if config.model not in SIZES:
    raise plan.PlanError(f'model={config.model!r}: a plan needs the name of a size, one of {", ".join(SIZES)}')
  m = SIZES[config.model]
  on = lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s)
  trained, frozen = _weights(config, m, mesh)
  state = train.abstract_state(trained, sft.optimizer(config, m))
  batch = jax.tree.map(lambda x: on(x, batch_sharding(x, mesh)), sft.abstract_batch(config, m))
  key = on(jax.eval_shape(lambda: jax.random.key(0)), jax.NamedSharding(mesh, jax.P()))
  step = sft.make_step(config, m, places=jax.tree.map(lambda x: x.sharding, state))
  kinds = {'weights': (trained, frozen), 'optimiser state': state.opt_state, 'batch': batch}
  return plan.Program(step, (state, frozen, batch, key), kinds, parts(config, m), config.batch, config.accumulate,
                      config.remat)


def _weights(config: Config, m: model.Config, mesh):
  """(trainable, frozen) abstract weights, each where its `Spec` puts it; factors of adapters on every device."""
  spec = model.spec(m)
  places = {params_lib.path_name(path): s for path, s in jax.tree.leaves_with_path(shardings(spec, mesh))}
  everywhere = jax.NamedSharding(mesh, jax.P())
  dtype = config.dtype if config.lora.rank else 'float32'

  def place(path, x):
    home = places.get(params_lib.path_name(path).removesuffix('.base'), everywhere)
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=home)

  parts = jax.eval_shape(lambda w: sft.adapt(config, m, w), params_lib.abstract(spec, dtype))
  return tuple(jax.tree.map_with_path(place, part) for part in parts)


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
