"""The noise that each frame starts from: a row's own, independent of its batch."""

import jax

NOISE = 2**31 - 1  # folded into a row's key for its noise; token positions, which are folded into it too, stay below


def frame_noise(seeds: jax.Array, frames: jax.Array, width: int) -> jax.Array:
  """Normal noise float32 [B, width] from each row's seed (uint32 [B]) and the number of its frame (int32 [B]) alone."""

  def draw(seed, frame):
    stream = jax.random.fold_in(jax.random.key(seed), NOISE)
    return jax.random.normal(jax.random.fold_in(stream, frame), (width,))

  return jax.vmap(draw)(seeds, frames)
