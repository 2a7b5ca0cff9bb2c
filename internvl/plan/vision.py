"""The vision service of decoupled serving for `python -m core.plan --program=internvl.plan.vision`, all abstract.

  python -m core.plan --program=internvl.plan.vision --config=241b --topology=v5p:2x2x1

A round of tiles of any requests goes through the tower and the projector, and through the router of a Flash model. The
language service of the same deployment has a mesh of its own: `internvl.plan.engine`, for prefill and decode.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from core import params as params_lib
from core import plan
from core.launch.fields import field
from core.mesh import RULES, Mesh, Shape, batch_sharding, shardings
from core.plan import formula
from internvl import model
from internvl.features import BATCH
from internvl.flash import router
from internvl.plan.prefill import flops
from internvl.plan.training import encoder_parts, size

BYTES = 2  # bfloat16


@dataclasses.dataclass(frozen=True)
class Config:
  """A vision service of one size of InternVL3.5, weights, arithmetic and features in bfloat16."""

  model: str = field('8B', 'size of the model')
  tiles: int = field(BATCH, 'tiles of a round', low=1)
  mesh: Shape = field(Shape(), 'axes')


CONFIGS = {'8b': Config(), '8b_flash': Config('8B-Flash'), '241b': Config('241B-A28B')}


@functools.partial(jax.jit, static_argnames='config')
def encode(params: model.Params, pixels: jax.Array, *, config: model.Config) -> tuple:
  """(features [n, M, D], compact features or None, scores [n] or None) of tiles [n, S, S, 3]."""
  patches, _ = model.patches(params, config, pixels)
  full = model.project(params, config, patches)
  if config.flash is None:
    return full, None, None
  return full, model.project(params, config, patches, compressed=True), router.scores(params.router, patches)


def plan_step(config: Config, mesh: Mesh) -> plan.Program:
  """A round on `mesh`. Raises plan.PlanError when `config.model` is no size."""
  m = size(config.model)
  spec = model.spec(m).replace(language=None)
  params = jax.tree.map(
    lambda w, place: jax.ShapeDtypeStruct(w.shape, w.dtype, sharding=place),
    params_lib.abstract(spec, jnp.bfloat16),
    shardings(spec, mesh, RULES),
  )
  side = m.vision.image_size
  pixels = jax.ShapeDtypeStruct((config.tiles, side, side, 3), jnp.float32)
  pixels = jax.ShapeDtypeStruct(pixels.shape, pixels.dtype, sharding=batch_sharding(pixels, mesh))
  return plan.Program(
    encode,
    (params, pixels),
    {'weights': params, 'inputs': pixels},
    (),
    config.tiles,
    static={'config': m},
    counted=_work(config, m, mesh),
    tips=('fewer tiles a round', 'more devices in data or model'),
    note=_note(config, m),
  )


def wire_bytes(m: model.Config, tiles: int, compressed: int = 0) -> int:
  """Bytes of features that a request with these tiles sends to the language service."""
  tokens = (tiles - compressed) * m.tokens_per_tile + compressed * m.compact_tokens
  return BYTES * tokens * m.language.width


def _note(config: Config, m: model.Config) -> str:
  sent = wire_bytes(m, config.tiles) / 2**20
  return f'{config.tiles} tiles a round, {sent:.1f} MiB of features to the language service'


def _work(config: Config, m: model.Config, mesh: Mesh) -> formula.Work:
  counted = encoder_parts(m, tiles=config.tiles, scored=m.flash is not None)
  matrices = [w for part in counted for w in formula.weights(part, mesh)]
  total = sum(flops(part, mesh) for part in counted)
  hbm = {'weights': float(BYTES * sum(w.needed for w in matrices))}
  held = params_lib.count(model.spec(m).replace(language=None))
  return formula.Work(held, round(sum(w.active for w in matrices)), total, total, hbm, {})
