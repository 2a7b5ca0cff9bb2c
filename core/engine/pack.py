"""What the scheduler decided as the arrays that the device programs read: host-side, without a model."""

from collections.abc import Sequence

import numpy as np

from core.engine.device import STOPS, Slots
from core.engine.sample import Sampling
from core.engine.scheduler import Row, Scheduler
from kernels.tree.plan import Plan, plan

DRAWING = ('temperature', 'top_k', 'top_p', 'min_p', 'seed')  # the order of `Request.sampling`


def prompts(s: Scheduler, work: Sequence[tuple[Row, int, int]], room: int):
  """Prompt tokens to fill in, padded to `room`: (plan, content, positions, page, offset), the last four [room].

  work: as `Scheduler.unfilled` gives it. content is a list: token ids, and negative names of image tokens.
  """
  size, pages = s.page_size, len(s.pool.references)
  spare = room - sum(stop - start for _, start, stop in work)
  content = [c for row, start, stop in work for c in row.content[start:stop]] + [0] * spare
  positions = np.array([t for _, start, stop in work for t in range(start, stop)] + [-1] * spare, np.int32)
  tables = [row.pages[: -(-stop // size)] for row, start, stop in work for _ in range(start, stop)] + [[]] * spare
  page = np.array([table[t // size] if table else pages for table, t in zip(tables, positions)], np.int32)
  return plan(tables, positions + 1, page_size=size, capacity=pages), content, positions, page, positions % size


def segment(s: Scheduler, ready: Sequence[Row]) -> tuple[Plan, Slots]:
  """What a segment of the rows that are ready reads."""
  count, size, pages = len(s.slots), s.page_size, len(s.pool.references)
  tail = (s.segment + size - 2) // size + 1
  tables: list[list[int]] = [[] for _ in range(count)]
  slots = Slots(
    token=np.zeros(count, np.int32),
    position=np.zeros(count, np.int32),
    limit=np.zeros(count, np.int32),
    stops=np.full((count, STOPS), -1, np.int32),
    sampling=Sampling.of(count),
    pages=np.full((count, tail), pages, np.int32),
  )
  drawn = [(0.0, 0, 1.0, 0.0, 0)] * count
  for row in ready:
    i, position = row.slot, row.target
    tables[i] = row.pages
    slots.token[i], slots.position[i], slots.limit[i] = row.content[-1], position, row.remaining
    slots.stops[i, : len(row.request.stops)] = row.request.stops
    own = row.pages[position // size :][:tail]
    slots.pages[i, : len(own)] = own
    drawn[i] = row.request.sampling(row.sample)
  sampling = Sampling.of(count, **{name: list(column) for name, column in zip(DRAWING, zip(*drawn))})
  return plan(tables, np.zeros(count), page_size=size, capacity=pages), slots.replace(sampling=sampling)
