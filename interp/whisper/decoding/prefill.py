"""The prompt of a window through the decoder.

R rows   T prompt slots   V vocabulary
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from core import padding
from interp.whisper import decoder
from interp.whisper.config import Config
from interp.whisper.decoder import Cache

SMALLEST = 4  # prompt slots; most prompts are a few marks


@struct.dataclass
class Prompt:
  """tokens, positions: int32 [R, T], padded on the left (position -1). start: int32 [R], slot of startoftranscript."""

  tokens: jax.Array
  positions: jax.Array
  start: jax.Array

  @property
  def length(self) -> jax.Array:
    """int32 [R], tokens of each row."""
    return self.positions[:, -1] + 1


def pack(prompts: list[list[int]], sot: int) -> Prompt:
  """Prompts of any lengths, padded to a bucket."""
  slots = padding.bucket(max(map(len, prompts)), SMALLEST)
  tokens = padding.batch(prompts, dtype=np.int32, length=slots, side='left')
  positions = padding.positions([len(prompt) for prompt in prompts], slots, side='left')
  starts = [slots - len(prompt) + prompt.index(sot) for prompt in prompts]
  return Prompt(jnp.asarray(tokens), jnp.asarray(positions), jnp.asarray(starts, jnp.int32))


def prefill(
  params: decoder.Params, config: Config, keys: tuple, prompt: Prompt, *, new: int, edit=None
) -> tuple[jax.Array, jax.Array, Cache]:
  """(logits after the prompt float32 [R, V], logits at its start [R, V], cache with `new` more slots)."""
  rows, slots = prompt.tokens.shape
  unstacked = isinstance(params.blocks, tuple)
  cache = decoder.new_cache(config, rows, slots + new, params.embed.dtype, unstacked=unstacked)
  out = decoder.forward(params, config, prompt.tokens, keys, positions=prompt.positions, cache=cache, edit=edit)
  at_start = jnp.take_along_axis(out.hidden, prompt.start[:, None, None], 1)
  two = jnp.concatenate([out.hidden[:, -1:], at_start], 1)
  both = decoder.logits(params, two)
  return both[:, 0], both[:, 1], out.cache
