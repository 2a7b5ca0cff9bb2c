"""What changes while speech is generated, and what does not.

B rows   C latent   D width   N samples of a frame
"""

from typing import Any

import jax
from flax import struct

from core.engine.sampling import Sampling
from core.past.cache import Cache
from vibevoice.diffusion import Steps


@struct.dataclass
class State:
  """Everything that a step changes.

  cache: rows of the positive branch [B], then with guidance those of the negative one [B], each with its own length.
  embedding: [B, D], what both branches consume next. decoder, encoder: streams of the acoustic decoder and of the
  semantic encoder. frames: int32 [B], frames spoken so far. steps: int32 [B], tokens chosen so far.
  finished: bool [B]. truncated: bool [B], finished by the limit. failed: bool [B], finished by logits that are NaN.
  """

  cache: Cache
  embedding: jax.Array
  decoder: Any
  encoder: Any
  frames: jax.Array
  steps: jax.Array
  finished: jax.Array
  truncated: jax.Array
  failed: jax.Array


@struct.dataclass
class Given:
  """Choices that are not drawn: noise float32 [B, frames, C] and tokens int32 [B, steps]; None draws them."""

  noise: Any = None
  tokens: Any = None


@struct.dataclass
class Settings:
  """How rows speak.

  limit: int32 [B], tokens at most. scale: guidance, float32 [B]; None computes no negative branch. The seed of
  `sampling` gives a row its noise too, so a row speaks the same in any batch.
  """

  solver: Steps
  sampling: Sampling
  limit: jax.Array
  scale: Any = None
  given: Given = Given()


@struct.dataclass
class Frame:
  """What one step made. samples: float32 [B, N], valid where bool `spoken` [B]; latents: [B, C], as the head made them;
  tokens: int32 [B], the end token in rows that are finished."""

  samples: jax.Array
  latents: jax.Array
  tokens: jax.Array
  spoken: jax.Array
