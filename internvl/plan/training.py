"""InternVL for `python -m core.plan`: abstract weights, what to count, and the supervised fine-tuning step."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax

from core import params as params_lib
from core import plan
from core.plan.decoder import decoder_parts, triangle
from core.plan.training import place, training
from internvl import model
from internvl.configs import CONFIGS as SIZES
from internvl.flash import router
from internvl.training import sft
from internvl.training.configs import Config

# Work that the formulas leave out, by objective.
UNCOUNTED = {
  'next_token': '',
  'consistency': 'not counted: the forward pass of the reference',
  'routing': 'not counted: the forward passes of the reference and of each tile; the model has no backward pass',
}


def plan_step(config: Config, mesh: jax.sharding.Mesh) -> plan.Program:
  """The step that `internvl.train` runs on `mesh`, and what to count of it.

  Master weights are float32: at the rates of fine-tuning most updates are smaller than half a unit in the last place
  of a bfloat16 weight, and would be lost. Arithmetic is in `config.dtype`. Raises plan.PlanError when `config.model`
  is not the name of a size.
  """
  m = size(config.model)
  dtype = config.dtype if config.lora.rank else 'float32'
  weights = jax.eval_shape(lambda w: sft.adapt(config, m, w), params_lib.abstract(model.spec(m), dtype))
  return training(
    functools.partial(sft.make_step, config, m),
    sft.optimizer(config, m),
    place(weights, model.spec(m), mesh),
    sft.abstract_batch(config, m),
    mesh,
    parts=parts(config, m),
    rows=config.batch,
    micro_batches=config.accumulate,
    remat=config.remat,
    carry=sft.carry(config),
    reference=_reference(config, m, mesh),
    note=UNCOUNTED[config.objective],
  )


def _reference(config: Config, m: model.Config, mesh: jax.sharding.Mesh) -> Any:
  """The frozen weights that ViCO compares with, abstract and placed; None for other objectives."""
  if config.objective == 'next_token':
    return None
  base = dataclasses.replace(m, flash=None)
  return place(params_lib.abstract(model.spec(base), config.dtype), model.spec(base), mesh)


def size(name: str) -> model.Config:
  """The published model of that name. Raises plan.PlanError when there is none."""
  if name not in SIZES:
    raise plan.PlanError(f'model={name!r}: a plan needs the name of a size, one of {", ".join(SIZES)}')
  return SIZES[name]


def parts(config: Config, m: model.Config) -> tuple[plan.Part, ...]:
  """The towers. Attention counts the whole causal triangle of a packed row: its kernel skips no other sample's keys."""
  tokens = config.batch * config.length
  return towers(
    m,
    tiles=config.batch * config.tiles,
    tokens=tokens,
    scored=tokens,
    pairs=lambda window: config.batch * triangle(config.length, window),
  )


def towers(
  m: model.Config, *, tiles: int, tokens: int, scored: int, pairs: Callable[[int | None], float]
) -> tuple[plan.Part, ...]:
  """The parts of a model that reads `tiles` and `tokens` and predicts the successors of `scored` tokens.

  pairs(window): pairs of a query and a key that it sees, in a layer with that window.
  """
  return (
    *encoder_parts(m, tiles=tiles, scored=False),
    *decoder_parts(m.language, tokens=tokens, scored=scored, pairs=pairs),
  )


def encoder_parts(m: model.Config, *, tiles: int, scored: bool) -> tuple[plan.Part, ...]:
  """The parts that make image embeddings of `tiles` tiles. A Flash model runs both projectors on every tile.

  scored: whether the router runs; without it, its weights are counted and its work is not.
  """
  spec = model.spec(m)
  patches = m.vision.grid**2
  # QKᵀ and PV: 2 FLOPs a multiply-add, N·H products each, for every pair.
  full = 4.0 * m.vision.width * m.vision.depth * (1 + patches) ** 2 * tiles
  parts = [
    plan.Part('vision tower', spec.vision, tiles * (1 + patches), full, tensor=False),
    plan.Part('projector', spec.projector, tiles * m.tokens_per_tile, 0.0),
  ]
  if m.flash:
    parts.append(plan.Part('compact projector', spec.compact, tiles * m.compact_tokens, 0.0))
    parts += _router_parts(spec.router, tiles if scored else 0, patches)
  return tuple(parts)


def _router_parts(spec: router.Params, tiles: int, patches: int) -> list[plan.Part]:
  """Keys and values of the two stages that are used read every patch; everything else one query a tile."""
  pooling = spec.pooling
  used = (pooling.first, pooling.repeated)
  keys = [(stage.attn.k, stage.attn.v) for stage in used]
  first, repeated = (stage.replace(attn=stage.attn.replace(k=None, v=None)) for stage in used)
  queries = pooling.replace(first=first, repeated=repeated, unused3=None, unused4=None)
  width = pooling.query.shape[0]
  attention = 4 * 4.0 * width * patches * tiles  # of four applications
  return [
    plan.Part('router keys', keys, tiles * patches, attention),
    plan.Part('router', spec.replace(pooling=queries), tiles, 0.0),
    plan.Part('router, not used', (pooling.unused3, pooling.unused4), 0, 0.0),
  ]
