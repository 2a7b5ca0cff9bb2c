"""The prefill of prompts with images for `python -m core.plan --program=internvl.plan.prefill`: abstract throughout.

  python -m core.plan --program=internvl.plan.prefill --config=8b_flash --topology=v5p:2x2x1 [--config.compressed=0]

One program encodes the tiles, scores them (Flash), projects them and runs the language model over the whole prompts, as
it would for the first token of each answer.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from core import decoder, plan
from core import params as params_lib
from core.launch.fields import field
from core.mesh import Mesh, Shape, batch_sharding, shardings
from core.padding import bucket
from core.plan import formula
from core.plan.decoder import decoder_parts, triangle
from internvl import model
from internvl.flash import router
from internvl.plan.training import encoder_parts, size

BYTES = 2  # bfloat16


@dataclasses.dataclass(frozen=True)
class Config:
  """Prompts of one size of InternVL3.5, weights and arithmetic in bfloat16."""

  model: str = field('8B-Flash', 'size of the model; a base size has no router and compresses nothing')
  batch: int = field(1, 'prompts')
  tiles: int = field(13, 'tiles of a prompt, thumbnails included')
  compressed: int = field(6, 'how many of them are compressed')
  text: int = field(64, 'text tokens of a prompt')
  mesh: Shape = field(Shape(), 'axes')

  def __post_init__(self):
    for name in ('batch', 'text'):
      if getattr(self, name) < 1:
        raise ValueError(f'{name}={getattr(self, name)}: expected 1 or more')
    if not 0 <= self.compressed <= self.tiles:
      raise ValueError(f'compressed={self.compressed}: expected 0 to tiles={self.tiles}')


CONFIGS = {
  '8b': Config('8B', compressed=0, mesh=Shape(model=4)),
  '8b_flash': Config(mesh=Shape(model=4)),
}


def prompt_tokens(m: model.Config, *, tiles: int, compressed: int, text: int) -> int:
  """Tokens of a prompt with `text` text tokens and these tiles."""
  return text + (tiles - compressed) * m.tokens_per_tile + compressed * m.compact_tokens


@functools.partial(jax.jit, static_argnames='config')
def prefill(params, pixels, tokens, positions, tile_tokens, *, config: model.Config):
  """(logits float32 [B, V] after each prompt, cache, scores [B, n] or None); arguments as of `internvl.apply`."""
  features, _ = model.patches(params, config, pixels)
  if config.flash:
    scores = router.scores(params.router, features)
    images = model.project_mixed(params, config, features, tile_tokens)
  else:
    scores = None
    tile_tokens = None
    images = model.project(params, config, features)
  x = model.embed(params, config, tokens, images, tile_tokens=tile_tokens)
  out = decoder.forward(params.language, config.language, x, positions=positions, cache=tokens.shape[1])
  last = jnp.argmax(positions, -1)
  hidden = jnp.take_along_axis(out.hidden, last[:, None, None], 1)
  return decoder.logits(params.language, config.language, hidden)[:, 0], out.cache, scores


def plan_step(config: Config, mesh: Mesh) -> plan.Program:
  """The program on `mesh`. Raises plan.PlanError when `config.model` is no size, or a base size is to compress."""
  m = size(config.model)
  if config.compressed and m.flash is None:
    raise plan.PlanError(f'compressed={config.compressed}: model={config.model!r} is not a Flash model; expected 0')
  params = jax.tree.map(
    lambda w, place: jax.ShapeDtypeStruct(w.shape, w.dtype, sharding=place),
    params_lib.abstract(model.spec(m), jnp.bfloat16),
    shardings(model.spec(m), mesh),
  )
  inputs = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=batch_sharding(x, mesh)), _inputs(config, m)
  )
  return plan.Program(
    prefill,
    (params, *inputs),
    {'weights': params, 'inputs': inputs},
    (),
    config.batch,
    static={'config': m},
    counted=_work(config, m, mesh),
    tips=('more devices in model', 'fewer prompts at a time'),
    note=_note(config, m),
  )


def _inputs(c: Config, m: model.Config) -> tuple:
  """(pixels, tokens, positions, tile_tokens), abstract; prompts are padded to a bucket, as conversations are."""
  side = m.vision.image_size
  rows = c.batch
  ints = jax.ShapeDtypeStruct((rows, bucket(_tokens(c, m))), jnp.int32)
  pixels = jax.ShapeDtypeStruct((rows, c.tiles, side, side, 3), jnp.bfloat16)
  return pixels, ints, ints, jax.ShapeDtypeStruct((rows, c.tiles), jnp.int32)


def _tokens(c: Config, m: model.Config) -> int:
  return prompt_tokens(m, tiles=c.tiles, compressed=c.compressed, text=c.text)


def _note(c: Config, m: model.Config) -> str:
  tokens = _tokens(c, m)
  full = prompt_tokens(m, tiles=c.tiles, compressed=0, text=c.text)
  return f'{c.compressed} of {c.tiles} tiles compressed: {tokens:,} tokens a prompt instead of {full:,}'


def parts(m: model.Config, *, batch: int, tiles: int, tokens: int) -> tuple[plan.Part, ...]:
  """What prefill computes for `batch` prompts of `tiles` and `tokens` each; both projectors run on every tile."""
  pairs = lambda window: batch * triangle(tokens, window)
  return (
    *encoder_parts(m, tiles=batch * tiles, scored=m.flash is not None),
    *decoder_parts(m.language, tokens=batch * tokens, scored=batch, pairs=pairs),
  )


def flops(part: plan.Part, mesh: Mesh) -> float:
  """FLOPs of a part's forward pass: 2 a product of each weight with each token, and attention."""
  products = sum(w.active for w in formula.weights(part, mesh))
  return 2.0 * part.tokens * products + part.table + part.attention


def _work(c: Config, m: model.Config, mesh: Mesh) -> formula.Work:
  length = bucket(_tokens(c, m))
  counted = parts(m, batch=c.batch, tiles=c.tiles, tokens=length)
  matrices = [w for part in counted for w in formula.weights(part, mesh)]
  total = sum(flops(part, mesh) for part in counted)
  language = m.language
  cache = 2.0 * BYTES * c.batch * length * language.depth * language.kv_heads * language.head_dim / mesh.size
  hbm = {'weights': float(BYTES * sum(w.needed for w in matrices)), 'cache': cache}
  tensor = mesh.shape['model']
  # Two sums over `model` a layer, by rings.
  sent = 2.0 * BYTES * c.batch * length * language.width * language.depth * 2 * (tensor - 1) / tensor
  ici = {'tensor axis': sent} if tensor > 1 else {}
  active = round(sum(w.active for w in matrices))
  return formula.Work(params_lib.count(model.spec(m)), active, total, total, hbm, ici)
