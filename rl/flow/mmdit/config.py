"""Sizes of the transformers: what SD3, SD3.5 and FLUX.1 differ in is data."""

import dataclasses

TIME_WIDTH = 256  # sinusoids of a time or a guidance scale
MLP_RATIO = 4  # hidden units of the feed-forward layers over the width


@dataclasses.dataclass(frozen=True)
class Config:
  """A stack of joint blocks (text and image with weights of their own), then one of single-stream blocks.

  channels: of the latents. text: width of the text tokens; pooled: of the pooled text. joint, single: numbers of
  blocks. Without single blocks nothing reads the text after the last joint block, so that one has no text output (SD3).
  dual: the first joint blocks that have a second attention over the image alone (SD3.5-medium). guidance: the
  guidance scale is an input (FLUX.1-dev). qk_norm: RMSNorm of queries and keys by head.

  Positions are either a table of `table` x `table` patches, cropped around its centre, whose coordinates at
  initialisation run from 0 to `table_extent`; or rotary with `axes` sizes for (text, row, column), which sum to
  head_dim.
  """

  channels: int
  heads: int
  head_dim: int
  text: int
  pooled: int
  joint: int
  single: int = 0
  dual: int = 0
  patch: int = 2
  table: int | None = None
  table_extent: int = 64
  axes: tuple[int, ...] | None = None
  theta: float = 10_000.0
  qk_norm: bool = True
  guidance: bool = False
  eps: float = 1e-6

  def __post_init__(self):
    if (self.table is None) == (self.axes is None):
      raise ValueError(f'mmdit: table={self.table}, axes={self.axes}; expected exactly one of them')
    if self.axes is not None and (sum(self.axes) != self.head_dim or any(size % 2 for size in self.axes)):
      raise ValueError(f'mmdit: axes={self.axes}; expected even sizes that sum to head_dim={self.head_dim}')
    if self.table is not None and self.width % 4:
      raise ValueError(f'mmdit: width={self.width}; a table of positions needs a multiple of 4')
    if self.joint < 1 or not 0 <= self.dual <= self.joint - self.last:
      raise ValueError(
        f'mmdit: joint={self.joint}, dual={self.dual}; expected a joint block at least, and no dual last one'
      )

  @property
  def width(self) -> int:
    """Width of both streams."""
    return self.heads * self.head_dim

  @property
  def hidden(self) -> int:
    """Hidden units of a feed-forward layer."""
    return MLP_RATIO * self.width

  @property
  def last(self) -> int:
    """1 if the last joint block has no text output, else 0."""
    return int(self.single == 0)

  @property
  def plain(self) -> int:
    """How many joint blocks are neither dual nor without a text output."""
    return self.joint - self.dual - self.last


SD3_MEDIUM = Config(
  channels=16, heads=24, head_dim=64, text=4096, pooled=2048, joint=24, table=192, table_extent=64, qk_norm=False
)
CONFIGS = {
  'flux.1-dev': Config(
    channels=16,
    heads=24,
    head_dim=128,
    text=4096,
    pooled=768,
    joint=19,
    single=38,
    axes=(16, 56, 56),
    guidance=True,
  ),
  'sd3-medium': SD3_MEDIUM,
  'sd3.5-medium': dataclasses.replace(SD3_MEDIUM, table=384, dual=13, qk_norm=True),
  'tiny': Config(channels=4, heads=2, head_dim=16, text=24, pooled=20, joint=3, dual=1, table=16, table_extent=8),
  'tiny-flux': Config(
    channels=4, heads=2, head_dim=16, text=24, pooled=20, joint=2, single=2, axes=(4, 6, 6), guidance=True
  ),
}
CONFIGS['flux.1-schnell'] = dataclasses.replace(CONFIGS['flux.1-dev'], guidance=False)
