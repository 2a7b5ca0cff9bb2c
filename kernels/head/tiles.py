"""How the feed-forward weights of the head are cut into tiles, and how many of them stay in VMEM.

L layers   D width   F feed-forward
"""

import dataclasses

LANES = 128
WIDEST = 512  # columns of a streamed tile: 4.7 MB of the three matrices at D 1536
MOST = 2048  # columns of a grid step
RESERVE = 6 * 2**20  # bytes for the compiler's own temporaries and everything else that is resident


@dataclasses.dataclass(frozen=True)
class Tiles:
  """Columns of one grid step: each of `count` steps a layer multiplies `streamed` columns that arrive in time for it
  and `resident` ones that stay in VMEM from the first solver step to the last.

  A step has both kinds, so the next tile's transfer overlaps the products of the resident ones.
  """

  count: int
  streamed: int
  resident: int

  def bytes(self, depth: int, width: int, itemsize: int) -> int:
    """Bytes in VMEM: streamed tiles are double-buffered."""
    column = 3 * width * itemsize
    return column * (2 * self.streamed + depth * self.count * self.resident)

  def traffic(self, depth: int, width: int, itemsize: int, steps: int) -> int:
    """Bytes of feed-forward weights read from HBM in `steps` solver steps."""
    column = 3 * width * itemsize
    return column * depth * self.count * (steps * self.streamed + self.resident)


def options(mlp: int) -> list[Tiles]:
  """All ways to cut F columns. A width that is not made of whole lanes is one tile, streamed or resident."""
  if mlp % LANES:
    return [Tiles(1, mlp, 0), Tiles(1, 0, mlp)]
  legal = []
  lanes = mlp // LANES
  for count in range(1, lanes + 1):
    if lanes % count:
      continue
    both = mlp // count
    for resident in range(0, both + 1, LANES):
      tiles = Tiles(count, streamed=both - resident, resident=resident)
      if _is_legal(tiles):
        legal.append(tiles)
  return legal


def _is_legal(tiles: Tiles) -> bool:
  """Streamed blocks begin where the resident columns end, which must be a multiple of their size."""
  if tiles.streamed + tiles.resident > MOST:
    return False
  if tiles.streamed == 0:
    return True
  before = tiles.count * tiles.resident
  return tiles.streamed <= WIDEST and before % tiles.streamed == 0


def choose(depth: int, width: int, mlp: int, itemsize: int, vmem: int) -> Tiles | None:
  """The tiles that read least from HBM within `vmem` bytes, of those the fewest; None if nothing fits.

  Each grid step costs about 0.35 µs of overhead, so wide tiles are better than many.
  """
  budget = vmem - RESERVE
  fitting = [tiles for tiles in options(mlp) if tiles.bytes(depth, width, itemsize) <= budget]
  most = max((tiles.count * tiles.resident for tiles in fitting), default=None)
  resident = [tiles for tiles in fitting if tiles.count * tiles.resident == most]
  return min(resident, key=lambda tiles: tiles.count, default=None)
