"""The scheduler's decisions as the arrays that the device programs read: on the host, without a model."""

from collections.abc import Sequence as Rows
from typing import NamedTuple

import numpy as np

from core.engine.device import Slots
from core.engine.sampling import Sampling
from core.engine.scheduling.scheduler import Scheduler
from core.engine.scheduling.sequence import Sequence
from kernels.tree import plan as tree

SPREAD = 2  # a contiguous copy has at most this many times the pages that are read

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
  start = np.array([first for _, first, _ in work], np.int64)
  stop = np.array([last for _, _, last in work], np.int64)
  runs = stop - start
  filled = int(runs.sum())
  # Token i of all is token i - (those of the runs before) of its run, which starts at position `start`.
  shift = stop - np.cumsum(runs)
  token = np.arange(filled)
  positions = np.full(size, -1, np.int32)
  positions[:filled] = token + np.repeat(shift, runs)
  slot = np.repeat(slots, runs)
  depth = positions[:filled] // s.page_size
  out_of_range = len(s.pool.references)
  page = np.full(size, out_of_range, np.int32)
  page[:filled] = s.rows.table[slot, depth]
  spare = size - filled
  most = most_pages(s, chunk)
  return Prompts(
    plan=_plan_of_runs(s, slots, stop, runs, spare=spare, lengths=positions + 1, most=most),
    names=_names(s, work, size),
    positions=positions,
    page=page,
    offset=positions % s.page_size,
  )


def _names(s: Scheduler, work: Work, size: int) -> np.ndarray:
  """int64 [size]: the tokens of all runs, then zeros."""
  names = np.zeros(size, np.int64)
  at = 0
  for sequence, first, last in work:
    end = at + last - first
    names[at:end] = s.rows.names(sequence, first, last)
    at = end
  return names


def _plan_of_runs(
  s: Scheduler, slots: np.ndarray, stop: np.ndarray, runs: np.ndarray, *, spare: int, lengths: np.ndarray, most: int
) -> tree.Plan:
  """The plan of sequences whose next `runs` tokens each read all pages up to `stop`, and of `spare` rows of padding."""
  counts = -(-stop // s.page_size)
  longest = counts.max(initial=0)
  table = s.rows.table[slots, :longest]
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
  position = np.where(ready, s.rows.target, 0)
  counts = np.where(ready, s.rows.pages, 0)
  left = s.rows.wanted - s.rows.new
  limit = np.minimum(left, most)
  plan = _plan_of_slots(s, counts)
  inputs = Slots(
    token=_last_tokens(s, ready),
    position=position,
    limit=np.where(ready, limit, 0),
    stops=stops,
    sampling=sampling,
    pages=_pages_ahead(s, position, counts),
    wants_top=wants_top,
    table=_table(s, counts, plan),
  )
  return plan, inputs


def _plan_of_slots(s: Scheduler, counts: np.ndarray) -> tree.Plan:
  """The plan of one row a slot, which reads its first `counts` pages; `decode` sets the lengths."""
  table = s.rows.table[:, : counts.max()]
  capacity = min(len(counts) * s.longest, len(s.pool.references))
  one_row = np.ones_like(counts)
  lengths = np.zeros(len(counts))
  return tree.from_table(table, counts, one_row, lengths, page_size=s.page_size, capacity=capacity)


def _last_tokens(s: Scheduler, ready: np.ndarray) -> np.ndarray:
  """int32 [R]: the last token of each sequence that is ready."""
  rows = s.rows
  slots = np.arange(len(ready))
  index = np.maximum(rows.new - 1, 0)
  last = rows.tokens[slots, index]
  without_response = ready & (rows.new == 0)
  for slot in np.flatnonzero(without_response).tolist():
    prompt = s.slots[slot].prompt
    last[slot] = prompt.names[-1]
  return np.where(ready, last, 0)


def _pages_ahead(s: Scheduler, position: np.ndarray, counts: np.ndarray) -> np.ndarray:
  """int32 [R, T]: each slot's pages from the one of `position` on, an index out of range where there is none."""
  whole = (s.segment + s.page_size - 2) // s.page_size
  ahead = np.arange(whole + 1)  # a segment may begin at the last token of a page
  first = position // s.page_size
  depth = first[:, None] + ahead
  listed = depth < counts[:, None]
  index = np.where(listed, depth, 0)
  row = np.arange(len(counts))[:, None]
  pages = s.rows.table[row, index]
  out_of_range = len(s.pool.references)
  pages = np.where(listed, pages, out_of_range)
  return pages.astype(np.int32)


def room(s: Scheduler) -> int:
  """Pages of each slot in a contiguous copy: together no more than the pool."""
  share = len(s.pool.references) // len(s.slots)
  return min(s.longest, share)


def _table(s: Scheduler, counts: np.ndarray, plan: tree.Plan) -> np.ndarray | None:
  """The first `counts` pages of each slot, int32 [R, room], where reading a copy of them is cheaper than the plan.

  None if a slot's pages exceed `room`, slots share many pages, or they differ much in length.
  """
  most = room(s)
  if counts.max() > most:
    return None
  copied = most * len(counts)
  read = np.count_nonzero(plan.readers)
  if copied > SPREAD * read:
    return None
  listed = np.arange(most) < counts[:, None]
  pages = s.rows.table[:, :most]
  return np.where(listed, pages, 0)
