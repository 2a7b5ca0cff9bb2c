"""Training of a TTS model for `python -m core.plan --program=vibevoice.plan.training`: abstract throughout.

  python -m core.plan --program=vibevoice.plan.training --config=7b_64k --topology=v5p:4x4x4

The model is named by its size. Tokenizers run before the step (`vibevoice.training.recordings`), so their weights are
held but do no work here.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from core import params as params_lib
from core import plan
from core.mesh import Shape
from core.plan.decoder import decoder_parts, triangle
from core.plan.training import place, training
from core.training.optim import Optim
from vibevoice import model
from vibevoice.config import CONFIGS as SIZES
from vibevoice.config import Config as ModelConfig
from vibevoice.training import fine_tuning, losses
from vibevoice.training.configs import Config, Lora

# What the paper trains: language model, head and connectors, on rows of one length (arXiv 2508.19205, §2.2).
_PAPER = Config(
  model='7B',
  batch=16,
  lora=Lora(rank=0),
  trainable=losses.TRAINABLE,
  ce_weight=1.0,
  diffusion_weight=1.0,
  optim=Optim(lr=1e-4),
  ema=0.0,
  mesh=Shape(model=4),
)
CONFIGS = {
  '7b_32k': dataclasses.replace(_PAPER, length=32_768, frames=20_480),
  '7b_64k': dataclasses.replace(_PAPER, length=65_536, frames=40_960),
}


def plan_step(config: Config, mesh: jax.sharding.Mesh) -> plan.Program:
  """The step that `vibevoice.train` runs on `mesh`, and what to count of it.

  Raises plan.PlanError when `config.model` is not the name of a TTS model.
  """
  m = size(config.model)
  stored = config.dtype if config.lora.rank else 'float32'
  adapted = jax.eval_shape(lambda w: fine_tuning.adapt(config, m, w), params_lib.abstract(model.spec(m), stored))
  return training(
    functools.partial(fine_tuning.make_step, config, m),
    fine_tuning.optimizer(config, m),
    place(adapted, model.spec(m), mesh),
    abstract_batch(config, m),
    mesh,
    parts=parts(config, m),
    rows=config.batch,
    micro_batches=config.accumulate,
    remat=config.remat,
    note=f'rows of {config.length:,} tokens, of which {config.frames:,} are frames, {config.repeats} draws of noise',
  )


def size(name: str) -> ModelConfig:
  """The TTS model of that name. Raises plan.PlanError when there is none."""
  names = [known for known, config in SIZES.items() if isinstance(config, ModelConfig)]
  if name not in names:
    raise plan.PlanError(f'model={name!r}: a plan needs the name of a TTS model, one of {", ".join(names)}')
  return SIZES[name]


def abstract_batch(c: Config, m: ModelConfig) -> losses.Batch:
  """The shapes and dtypes of a batch."""

  def of(dtype, *shape):
    return jax.ShapeDtypeStruct((c.batch, *shape), dtype)

  return losses.Batch(
    tokens=of(jnp.int32, c.length),
    positions=of(jnp.int32, c.length),
    latents=of(jnp.float32, c.frames, m.acoustic.latent),
    semantic=of(jnp.float32, c.frames, m.semantic.latent),
    target=of(jnp.bool_, c.frames),
    token_weights=of(jnp.float32, c.length),
    frame_weights=of(jnp.float32, c.frames),
    row_weights=of(jnp.float32),
  )


def parts(c: Config, m: ModelConfig) -> tuple[plan.Part, ...]:
  """What is counted: whole causal rows, connectors once a frame, the head once a frame and draw of noise."""
  spec = model.spec(m)
  frames = c.batch * c.frames
  tokens = c.batch * c.length
  return (
    *decoder_parts(m.language, tokens=tokens, scored=tokens, pairs=lambda window: c.batch * triangle(c.length, window)),
    plan.Part('connectors', (spec.acoustic_connector, spec.semantic_connector), frames, 0.0),
    plan.Part('diffusion head', spec.head, frames * c.repeats, 0.0),
    plan.Part('tokenizers, not used', (spec.acoustic, spec.semantic, spec.scaling), 0, 0.0),
  )
