"""The frame step of a TTS model for `python -m core.plan --program=vibevoice.plan.frame`: abstract throughout.

  python -m core.plan --program=vibevoice.plan.frame --config=1.5b --topology=v5e:2x2 [--config.rows=16]

It is the step that generation and the server repeat (`vibevoice.generation.step`), with caches full to their last slot.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp

from core import params as params_lib
from core import plan
from core.engine.sampling import Sampling
from core.launch.fields import field
from core.mesh import RULES, Mesh, Shape, batch_sharding, sharding, shardings
from core.past.cache import Cache
from core.plan import formula
from core.plan.aot import shard_bytes
from vibevoice import model
from vibevoice.config import SAMPLE_RATE, TokenizerConfig
from vibevoice.config import Config as ModelConfig
from vibevoice.diffusion import solver_steps
from vibevoice.generation.rows import initial
from vibevoice.generation.state import Settings, State
from vibevoice.generation.step import frame_step
from vibevoice.plan.training import size
from vibevoice.tokenizer import tower

# Every device holds the language model's width whole: gathering weights for each frame would cost more than the frame.
PLACES = RULES | {'embed': None}
BYTES = 2  # bfloat16
BRANCHES = 2  # of guidance


@dataclasses.dataclass(frozen=True)
class Config:
  """Rows that speak with guidance. Weights and caches are bfloat16, tokenizers float32."""

  model: str = field('1.5B', 'name of a TTS model')
  rows: int = field(1, 'scripts that are spoken at the same time', low=1)
  slots: int = field(65_536, 'positions of a row, prompt and speech', low=1)
  steps: int = field(10, 'solver steps a frame', low=1, high=999)
  mesh: Shape = field(Shape(), 'axes: rows are shared over data, heads and hidden units over model')


CONFIGS = {
  '1.5b': Config(rows=4),
  '1.5b_batch': Config(rows=16, slots=16_384),
}


@functools.partial(jax.jit, static_argnames='config', donate_argnames='state')
def advance(params, state: State, settings: Settings, *, config: ModelConfig):
  """`frame_step`, compiled as generation compiles it."""
  return frame_step(params, config, state, settings)


def plan_step(config: Config, mesh: Mesh) -> plan.Program:
  """The program on `mesh`. Raises plan.PlanError when `config.model` is not the name of a TTS model."""
  m = size(config.model)
  params = _params(m, mesh)
  state = _state(config, m, params, mesh)
  settings = _settings(config, params, mesh)
  return plan.Program(
    step=advance,
    args=(params, state, settings),
    kinds={'weights': params, 'caches': state.cache, 'streams': (state.decoder, state.encoder)},
    parts=(),
    rows=config.rows,
    static={'config': m},
    counted=_work(config, m, params, state.cache, mesh),
    tips=('fewer rows or slots', 'more devices: in data for several rows, in model for one'),
    note=f'{config.rows} rows of {config.slots:,} slots; {config.steps} solver steps a frame of {_seconds(m):.3f} s',
  )


def _seconds(m: ModelConfig) -> float:
  """Of one frame."""
  return m.acoustic.hop / SAMPLE_RATE


def _params(m: ModelConfig, mesh: Mesh) -> model.Params:
  """Abstract weights as generation holds them: tokenizers in the float32 that they compute in."""
  spec = model.spec(m)
  places = shardings(spec, mesh, PLACES)
  exact = params_lib.abstract(spec, jnp.float32)
  held = params_lib.abstract(spec, jnp.bfloat16).replace(acoustic=exact.acoustic, semantic=exact.semantic)
  return jax.tree.map(_placed, held, places)


def _placed(x, place: jax.sharding.Sharding) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place)


def _state(c: Config, m: ModelConfig, params: model.Params, mesh: Mesh) -> State:
  """The abstract state of `c.rows` rows, whose caches are shared over rows and key heads."""
  state = jax.eval_shape(lambda p: initial(p, m, rows=c.rows, slots=c.slots), params)
  by_row = jax.tree.map(lambda x: _placed(x, batch_sharding(x, mesh)), state)
  cached = sharding(state.cache.k.shape, ('layers', 'batch', 'kv_heads', None, None), mesh)
  cache = by_row.cache.replace(k=_placed(state.cache.k, cached), v=_placed(state.cache.v, cached))
  return by_row.replace(
    cache=cache,
    decoder=_streams(state.decoder, mesh),
    encoder=_streams(state.encoder, mesh),
  )


def _streams(streams, mesh: Mesh):
  """Streams [..., rows, K, C], by row."""

  def place(x):
    stacked = (None,) * (x.ndim - 3)
    return _placed(x, sharding(x.shape, (*stacked, 'batch', None, None), mesh))

  return jax.tree.map(place, streams)


def _settings(c: Config, params: model.Params, mesh: Mesh) -> Settings:
  def made(params):
    return Settings(
      solver=solver_steps(params.head, c.steps),
      sampling=jax.tree.map(jnp.asarray, Sampling.of(c.rows)),
      limit=jnp.ones(c.rows, jnp.int32),
      scale=jnp.ones(c.rows),
    )

  everywhere = jax.NamedSharding(mesh, jax.P())
  return jax.tree.map(lambda x: _placed(x, everywhere), jax.eval_shape(made, params))


def _work(c: Config, m: ModelConfig, params: model.Params, cache: Cache, mesh: Mesh) -> formula.Work:
  """Of one step of all rows whose caches are full."""
  branches = BRANCHES * c.rows
  counted = {part.name: 2.0 * part.tokens * _active(part, mesh) for part in parts(c, m)}
  language = m.language
  attention = 4.0 * language.heads * language.head_dim * language.depth * branches * c.slots
  flops = sum(counted.values()) + attention
  head = params.head.replace(time_in=None, time_out=None)  # embedded timesteps are computed once a load
  hbm = {
    'language model': float(shard_bytes(params.language.blocks)),
    'diffusion head': float(c.steps * shard_bytes(head)),
    'tokenizers': float(shard_bytes((params.acoustic.decoder, params.semantic.encoder))),
    'caches': float(shard_bytes(cache)),
  }
  total = params_lib.count(model.spec(m))
  active = round(sum(_active(part, mesh) for part in parts(c, m)))
  return formula.Work(total, active, flops, flops, hbm, _sent(c, m, mesh))


def _active(part: plan.Part, mesh: Mesh) -> float:
  """Numbers that a token of the part multiplies with."""
  return sum(weight.active for weight in formula.weights(part, mesh))


def parts(c: Config, m: ModelConfig) -> tuple[plan.Part, ...]:
  """What a step of all rows computes; the head runs once a solver step and branch of guidance."""
  spec = model.spec(m)
  branches = BRANCHES * c.rows
  head = spec.head.replace(time_in=None, time_out=None)
  return (
    plan.Part('language model', spec.language.blocks, branches, 0.0),
    plan.Part('connectors', (spec.acoustic_connector, spec.semantic_connector), c.rows, 0.0),
    plan.Part('diffusion head', head, branches * c.steps, 0.0),
    *_decoder(spec.acoustic.decoder, m.acoustic, c.rows),
    *_encoder(spec.semantic.encoder, m.semantic, c.rows),
  )


def _decoder(spec: tower.Params, config: TokenizerConfig, rows: int) -> list[plan.Part]:
  """From one vector a frame to samples: a transposed convolution multiplies each of its inputs once."""
  counted = []
  time = entry = 1
  for i, ratio in enumerate((1, *reversed(config.ratios))):
    entry = time
    time = time * ratio
    counted += _stage(f'decoder {i}', spec.stages[i], entry=rows * entry, time=rows * time)
  return [*counted, plan.Part('decoder head', spec.head, rows * time, 0.0)]


def _encoder(spec: tower.Params, config: TokenizerConfig, rows: int) -> list[plan.Part]:
  """From samples to one vector a frame: a strided convolution multiplies once for each of its outputs."""
  counted = []
  time = config.hop
  for i, ratio in enumerate((1, *config.ratios)):
    time = time // ratio
    counted += _stage(f'encoder {i}', spec.stages[i], entry=rows * time, time=rows * time)
  return [*counted, plan.Part('encoder head', spec.head, rows * time, 0.0)]


def _stage(name: str, stage: tower.Stage, *, entry: int, time: int) -> list[plan.Part]:
  return [plan.Part(f'{name}, entry', stage.conv, entry, 0.0), plan.Part(f'{name}, blocks', stage.blocks, time, 0.0)]


def _sent(c: Config, m: ModelConfig, mesh: Mesh) -> dict[str, float]:
  """Bytes that a device sends: two sums over `model` a layer of the language model, one a layer of the head."""
  size = mesh.shape['model']
  ring = 2 * (size - 1) / size
  layers = 2 * m.language.depth + c.steps * m.head.depth
  rows = BRANCHES * c.rows / math.gcd(BRANCHES * c.rows, mesh.shape['data'] * mesh.shape['expert'])
  sent = ring * BYTES * layers * rows * m.language.width
  if sent:
    return {'tensor axis': sent}
  return {}
