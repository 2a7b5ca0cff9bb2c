"""What a training loss of InternVL sees: packed rows.

B rows   T time   n tiles a row   S pixels a side
"""

from typing import Any

from flax import struct


@struct.dataclass
class Batch:
  """A training batch. weights[b, t] is the loss weight of predicting tokens[b, t]; 0 where nothing is to be learned.

  The last two fields are read by ViCO alone (`internvl.losses.vico`).
  """

  tokens: Any  # int32 [B, T]
  positions: Any  # int32 [B, T], -1 at padding
  weights: Any  # float32 [B, T]
  pixels: Any = None  # float [B, n, S, S, 3]
  segments: Any = None  # int32 [B, T], 0 at padding
  tile_tokens: Any = None  # int32 [B, n], image tokens of each tile, 0 at padding; not read by a base model
  tile_segments: Any = None  # int32 [B, n], the segment that each tile belongs to, 0 at padding
  tile_images: Any = None  # int32 [B, n], numbers of the images in their row, from 1; no meaning at padding
