"""What the scheduler decided as the arrays that the device programs read: on the host, without a model."""

from collections.abc import Sequence as Rows
from typing import NamedTuple

import numpy as np

from core.engine.device import STOPS, Slots
from core.engine.sampling import Sampling
from core.engine.scheduling.scheduler import Scheduler
from core.engine.scheduling.sequence import Sequence
from kernels.tree import plan as tree

Work = Rows[tuple[Sequence, int, int]]


class Prompts(NamedTuple):
  """Prompt tokens to prefill, [C] each: their names, positions (-1 at padding), and the place each is written to."""

  plan: tree.Plan
  names: np.ndarray  # int64
  positions: np.ndarray  # int32
  page: np.ndarray  # int32
  offset: np.ndarray  # int32


def most_pages(s: Scheduler, chunk: int) -> int:
  """Pages that one prefill may list: all of the longest sequence, and as many more as there are tokens."""
  return s.longest + chunk


def prompts(s: Scheduler, work: Work, size: int, chunk: int) -> Prompts:
  """Work, as `Scheduler.unfilled` gives it, padded to `size` tokens; chunk: the largest size."""
  slots = np.array([sequence.slot for sequence, _, _ in work], np.int64)
  start, stop = np.array([(start, stop) for _, start, stop in work], np.int64).reshape(-1, 2).T
  spare = size - int((stop - start).sum())
  positions = np.concatenate([*(np.arange(a, b) for a, b in zip(start, stop)), np.full(spare, -1)]).astype(np.int32)
  names = np.concatenate([*(sequence.content.names(a, b) for sequence, a, b in work), np.zeros(spare, np.int64)])
  page = np.full(size, len(s.pool.references), np.int32)
  filled = size - spare
  page[:filled] = s.tables[np.repeat(slots, stop - start), positions[:filled] // s.page_size]
  plan = _plan_of_runs(s, slots, stop, stop - start, spare, positions + 1, most_pages(s, chunk))
  return Prompts(plan, names, positions, page, positions % s.page_size)


def _plan_of_runs(s: Scheduler, slots, stop, runs, spare: int, lengths, most: int) -> tree.Plan:
  """The plan of sequences whose next `runs` tokens each read all pages up to `stop`, and of `spare` rows of padding."""
  counts = -(-stop // s.page_size)
  table = s.tables[slots, : counts.max(initial=0)]
  if spare:
    table = np.pad(table, ((0, 1), (0, 0)))
    counts, runs = np.append(counts, 0), np.append(runs, spare)
  limit = min(most, len(s.pool.references))
  capacity = (limit,) * len(tree.capacities(len(lengths), 1, 1))
  return tree.from_table(table, counts, runs, lengths, page_size=s.page_size, capacity=capacity)


def segment(s: Scheduler, ready: Rows[Sequence]) -> tuple[tree.Plan, Slots]:
  """What a segment of the sequences that are ready reads."""
  count = len(s.slots)
  slots = _empty_slots(count)
  drawing = {name: getattr(slots.sampling, name) for name in Sampling.__dataclass_fields__}
  counts = np.zeros(count, np.int64)
  for sequence in ready:
    i, request = sequence.slot, sequence.request
    counts[i] = len(sequence.pages)
    slots.token[i], slots.position[i], slots.limit[i] = sequence.content.last(), sequence.target, sequence.remaining
    stops = request.stops[:STOPS]
    slots.stops[i, : len(stops)] = stops
    for name, value in request.sampling(sequence.sample).items():
      drawing[name][i] = value
  table = s.tables[:, : counts.max(initial=0)]
  capacity = tree.capacities(count, s.longest, len(s.pool.references))
  plan = tree.from_table(table, counts, np.ones_like(counts), np.zeros(count), page_size=s.page_size, capacity=capacity)
  return plan, slots.replace(pages=_pages_ahead(s, slots.position, counts))


def _empty_slots(count: int) -> Slots:
  sampling = Sampling.of(count)
  return Slots(
    token=np.zeros(count, np.int32),
    position=np.zeros(count, np.int32),
    limit=np.zeros(count, np.int32),
    stops=np.full((count, STOPS), -1, np.int32),
    sampling=sampling.replace(**{name: value.copy() for name, value in vars(sampling).items()}),
    pages=None,
  )


def _pages_ahead(s: Scheduler, position: np.ndarray, counts: np.ndarray) -> np.ndarray:
  """int32 [R, T]: each slot's pages from the one of `position` on, an index out of range where there is none."""
  ahead = (s.segment + s.page_size - 2) // s.page_size + 1
  depth = position[:, None] // s.page_size + np.arange(ahead)
  listed = depth < counts[:, None]
  pages = s.tables[np.arange(len(counts))[:, None], np.where(listed, depth, 0)]
  return np.where(listed, pages, len(s.pool.references)).astype(np.int32)
