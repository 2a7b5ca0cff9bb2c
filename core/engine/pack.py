"""What the scheduler decided as the arrays that the device programs read: on the host, without a model."""

from collections.abc import Sequence as Rows
from typing import NamedTuple

import numpy as np

from core.engine.device import Slots
from core.engine.sampling import Sampling
from core.engine.scheduling.scheduler import Scheduler
from core.engine.scheduling.sequence import Sequence
from kernels.tree import plan as tree

SPREAD = 2  # a contiguous copy may have that many times the pages that are read

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
  runs = stop - start
  filled = int(runs.sum())
  # Token i of all is token i - (those of the runs before) of its run, which starts at position `start`.
  shift = stop - np.cumsum(runs)
  positions = np.full(size, -1, np.int32)
  positions[:filled] = np.arange(filled) + np.repeat(shift, runs)
  names = np.zeros(size, np.int64)
  if work:
    parts = [s.rows.names(sequence, first, last) for sequence, first, last in work]
    np.concatenate(parts, out=names[:filled])
  page = np.full(size, len(s.pool.references), np.int32)
  slot = np.repeat(slots, runs)
  page[:filled] = s.rows.table[slot, positions[:filled] // s.page_size]
  plan = _plan_of_runs(s, slots, stop, runs, size - filled, positions + 1, most_pages(s, chunk))
  return Prompts(plan, names, positions, page, positions % s.page_size)


def _plan_of_runs(s: Scheduler, slots, stop, runs, spare: int, lengths, most: int) -> tree.Plan:
  """The plan of sequences whose next `runs` tokens each read all pages up to `stop`, and of `spare` rows of padding."""
  counts = -(-stop // s.page_size)
  table = s.rows.table[slots, : counts.max(initial=0)]
  if spare:
    table = np.pad(table, ((0, 1), (0, 0)))
    counts = np.append(counts, 0)
    runs = np.append(runs, spare)
  capacity = min(most, len(s.pool.references))
  return tree.from_table(table, counts, runs, lengths, page_size=s.page_size, capacity=capacity)


def segment(
  s: Scheduler, ready: np.ndarray, stops: np.ndarray, sampling: Sampling, most: np.ndarray, wants_top: np.ndarray
) -> tuple[tree.Plan, Slots]:
  """What a segment of the slots that are ready (bool [R]) reads.

  stops, sampling, most, wants_top: of the sequences in the slots, as `SlotRequests.arrays` gives them.
  """
  rows = s.rows
  position = np.where(ready, rows.target, 0)
  counts = np.where(ready, rows.pages, 0)
  left = np.minimum(rows.wanted - rows.new, most)
  inputs = Slots(
    token=_last_tokens(s, ready),
    position=position,
    limit=np.where(ready, left, 0),
    stops=stops,
    sampling=sampling,
    pages=_pages_ahead(s, position, counts),
    wants_top=wants_top,
  )
  table = rows.table[:, : counts.max()]
  capacity = min(len(counts) * s.longest, len(s.pool.references))
  runs = np.ones_like(counts)
  lengths = np.zeros(len(counts))
  plan = tree.from_table(table, counts, runs, lengths, page_size=s.page_size, capacity=capacity)
  return plan, inputs.replace(table=_table(s, counts, plan))


def _last_tokens(s: Scheduler, ready: np.ndarray) -> np.ndarray:
  """int32 [R]: the last token of each sequence that is ready."""
  rows = s.rows
  index = np.maximum(rows.new - 1, 0)
  last = rows.tokens[np.arange(len(ready)), index]
  without_response = ready & (rows.new == 0)
  for slot in np.flatnonzero(without_response).tolist():
    last[slot] = s.slots[slot].prompt.names[-1]
  return np.where(ready, last, 0)


def _pages_ahead(s: Scheduler, position: np.ndarray, counts: np.ndarray) -> np.ndarray:
  """int32 [R, T]: each slot's pages from the one of `position` on, an index out of range where there is none."""
  ahead = (s.segment + s.page_size - 2) // s.page_size + 1
  depth = position[:, None] // s.page_size + np.arange(ahead)
  listed = depth < counts[:, None]
  rows = np.arange(len(counts))[:, None]
  pages = s.rows.table[rows, np.where(listed, depth, 0)]
  out_of_range = len(s.pool.references)
  return np.where(listed, pages, out_of_range).astype(np.int32)


def room(s: Scheduler) -> int:
  """Pages of each slot in a contiguous copy: together no more than the pool."""
  return min(s.longest, len(s.pool.references) // len(s.slots))


def _table(s: Scheduler, counts: np.ndarray, plan: tree.Plan) -> np.ndarray | None:
  """The first `counts` pages of each slot, int32 [R, room], where reading a copy of them is cheaper than the plan.

  None where a slot has no room, slots share many pages, or they differ much in length.
  """
  most = room(s)
  read = np.count_nonzero(plan.readers)
  if counts.max() > most or most * len(counts) > SPREAD * read:
    return None
  listed = np.arange(most) < counts[:, None]
  return np.where(listed, s.rows.table[:, :most], 0)
