"""Visual consistency learning: ViCO, the two training stages of InternVL3.5-Flash.

Paper: InternVL3.5 (arXiv 2508.18265 §2.1, §2.3), ViCO (arXiv 2510.12793). Rows are laid out with all image tokens of
every tile; tiles are compressed in place (`internvl.flash.slots.shorten`), so the teacher and the student see the
response at the same indices and every draw has the same shapes.

B rows   T time   n tiles a row   P patches   D width
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from core import decoder
from core.mesh import RULES
from core.params import cast
from core.training.steps import Loss
from internvl import model
from internvl.flash import router, slots
from internvl.losses.batch import Batch
from internvl.losses.window import Window, percentile, push


def consistency(
  params: model.Params,
  config: model.Config,
  batch: Batch,
  *,
  reference: model.Params,
  key: jax.Array,
  dtype=jnp.float32,
  remat_policy: str = 'none',
  rules=RULES,
) -> Loss:
  """Stage 1: Σ w·KL(reference at all image tokens ‖ model at a drawn resolution) over Σ w of response positions.

  Each image has all or a quarter of its image tokens with equal probability, one draw for all its tiles (ξ of the
  paper). With averaging 'sample' this is the paper's mean over positions of a sample, then over samples.
  """
  drawing, dropping = jax.random.split(key)
  tile_tokens = draw(drawing, config, batch)
  params = cast(params, dtype)
  reference = cast(reference, dtype)
  options = {'remat_policy': remat_policy, 'rules': rules}
  target = reference_states(reference, config, batch, rules=rules)
  images, _ = model.encode(params, config, batch.pixels, tile_tokens=tile_tokens, drop_key=dropping, **options)
  hidden = states(params, config, batch, images, tile_tokens, **options)
  divergence = divergences(params, config, hidden, reference, target, rules)
  weights = batch.weights[:, 1:]
  compressed = batch.tile_tokens > tile_tokens
  notes = {'compressed': (jnp.sum(compressed), jnp.sum(batch.tile_tokens > 0))}
  return Loss(jnp.sum(weights * divergence), jnp.sum(weights), notes)


def routing(
  params: model.Params,
  config: model.Config,
  batch: Batch,
  window: Window,
  *,
  reference: model.Params,
  key: jax.Array | None,
  k: float = 50.0,
  epsilon: float = 1e-6,
  dtype=jnp.float32,
  rules=RULES,
) -> Loss:
  """Stage 2: cross entropy of the router's score against which tiles may be compressed; the carry is the next window.

  A tile is compressible (label 0) if its loss ratio is below the k-th percentile of the window of recent ratios, those
  of this batch included. key: switches dropout of the router on. Only the router gets a gradient.
  """
  fixed = jax.lax.stop_gradient(cast(params, dtype))
  patches, _ = model.patches(fixed, config, batch.pixels, rules=rules)
  ratios, valid = loss_ratios(
    fixed, config, batch, patches, reference=cast(reference, dtype), epsilon=epsilon, rules=rules
  )
  window = push(window, ratios, valid)
  threshold = percentile(window, k)
  kept = ratios >= threshold
  logits = router.logits(cast(params.router, dtype), patches, key=key)
  losses = optax.softmax_cross_entropy_with_integer_labels(logits, label(kept))
  right = (logits.argmax(-1) == label(kept)) & valid
  count = jnp.sum(valid)
  notes = {
    'compressible': (jnp.sum(valid & ~kept), count),
    'agreement': (jnp.sum(right), count),
    'threshold': (threshold * count, count),
  }
  return Loss(jnp.sum(jnp.where(valid, losses, 0.0)), count, notes, carry=window)


def label(kept: jax.Array) -> jax.Array:
  """The class of tiles, int32 of the argument's shape: the index of the gate's output that should be high."""
  return jnp.where(kept, 1 - router.COMPRESS, router.COMPRESS)


def draw(key: jax.Array, config: model.Config, batch: Batch) -> jax.Array:
  """Image tokens of each tile, int32 [B, n]: all or a quarter, drawn for each image of a row."""
  rows, tiles = batch.tile_tokens.shape
  few_by_image = jax.random.bernoulli(key, 0.5, (rows, tiles + 1))
  few = jnp.take_along_axis(few_by_image, batch.tile_images, -1)
  return compress(config, batch, few)


def compress(config: model.Config, batch: Batch, few: jax.Array) -> jax.Array:
  """Image tokens of each tile, int32 [B, n], when those where `few` are compressed; 0 at padding."""
  return jnp.where(few & (batch.tile_tokens > 0), config.compact_tokens, batch.tile_tokens)


def states(
  params: model.Params, config: model.Config, batch: Batch, images: jax.Array, tile_tokens: jax.Array, **options: Any
) -> jax.Array:
  """Final hidden states [B, T, D] with the first `tile_tokens` int32 [B, n] embeddings of each tile of `images`.

  options: as in `core.decoder.forward`.
  """
  at = batch.tokens == config.image_token
  places, positions, segments = slots.shorten(at, batch.positions, batch.segments, tile_tokens, config.tokens_per_tile)
  rules = options.get('rules', RULES)
  x = model.embed(params, config, batch.tokens, images, rules, places=places, tile_tokens=tile_tokens)
  out = decoder.forward(params.language, config.language, x, positions=positions, segments=segments, **options)
  return out.hidden


def reference_states(reference: model.Params, config: model.Config, batch: Batch, *, rules=RULES) -> jax.Array:
  """Final hidden states [B, T, D] of the frozen reference with all image tokens, without gradient."""
  reference = jax.lax.stop_gradient(reference)
  images, _ = model.encode(reference, config, batch.pixels, rules=rules)
  return states(reference, config, batch, images, batch.tile_tokens, rules=rules)


def divergences(
  params: model.Params, config: model.Config, hidden: jax.Array, reference: model.Params, target: jax.Array, rules=RULES
) -> jax.Array:
  """KL(reference ‖ model) of predicting tokens[:, 1:], float32 [B, T - 1], from the hidden states of both."""
  return decoder.kl(
    params.language,
    config.language,
    hidden[:, :-1],
    reference=reference.language,
    reference_hidden=target[:, :-1],
    rules=rules,
  )


def loss_ratios(
  params: model.Params,
  config: model.Config,
  batch: Batch,
  patches: jax.Array,
  *,
  reference: model.Params,
  epsilon: float,
  rules=RULES,
) -> tuple[jax.Array, jax.Array]:
  """(loss ratio float32 [B, n], valid bool [B, n]) of each tile: the sample's KL with it compressed, over that without.

  One forward pass compresses the j-th tile of every sample at once, so there are as many passes as the largest sample
  has tiles, plus one. epsilon: added to the denominator. valid: tiles of samples with a response.
  """
  target = reference_states(reference, config, batch, rules=rules)
  full = model.project(params, config, patches)
  segments = batch.segments[:, None, 1:]
  is_scored = batch.weights[:, None, 1:] > 0
  member = (batch.tile_segments[..., None] == segments) & is_scored
  count = member.sum(-1)

  def by_tile(tile_tokens, images):
    hidden = states(params, config, batch, images, tile_tokens, rules=rules)
    divergence = divergences(params, config, hidden, reference, target, rules)
    of_tile = jnp.where(member, divergence[:, None], 0.0)
    return jnp.sum(of_tile, -1) / jnp.maximum(count, 1)

  rank = ranks(batch.tile_segments)
  valid = (batch.tile_tokens > 0) & (count > 0)

  def compress_nth(j, losses):
    few = rank == j
    tile_tokens = compress(config, batch, few)
    images = model.project_mixed(params, config, patches, tile_tokens)
    return jnp.where(few, by_tile(tile_tokens, images), losses)

  most = jnp.max(jnp.where(valid, rank + 1, 0))
  compressed = jax.lax.fori_loop(0, most, compress_nth, jnp.zeros(valid.shape, jnp.float32))
  return compressed / (by_tile(batch.tile_tokens, full) + epsilon), valid


def ranks(segments: jax.Array) -> jax.Array:
  """The place of each tile among those of its sample, int32 [B, n] from 0; segments: int32 [B, n], ascending runs."""
  place = jnp.broadcast_to(jnp.arange(segments.shape[-1]), segments.shape)
  shifted = jnp.pad(segments, ((0, 0), (1, 0)), constant_values=-1)
  before = shifted[:, :-1]
  start = jax.lax.cummax(jnp.where(segments != before, place, 0), axis=1)
  return place - start
