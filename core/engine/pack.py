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
  filled = int((stop - start).sum())
  positions = np.full(size, -1, np.int32)
  names = np.zeros(size, np.int64)
  if work:
    positions[:filled] = np.concatenate([np.arange(first, last) for first, last in zip(start, stop)])
    names[:filled] = np.concatenate([sequence.content.names(first, last) for sequence, first, last in work])
  page = np.full(size, len(s.pool.references), np.int32)
  page[:filled] = s.tables[np.repeat(slots, stop - start), positions[:filled] // s.page_size]
  plan = _plan_of_runs(s, slots, stop, stop - start, size - filled, positions + 1, most_pages(s, chunk))
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


class SlotRequests:
  """How each slot draws and ends, arrays of R rows; a row is written only when its slot has another sample."""

  def __init__(self, slots: int):
    self._samples: list[Sequence | None] = [None] * slots
    self._stops = np.full((slots, STOPS), -1, np.int32)
    self._sampling = {name: value.copy() for name, value in vars(Sampling.of(slots)).items()}
    self._idle = {name: value[0] for name, value in vars(Sampling.of(1)).items()}

  def update(self, samples: Rows[Sequence | None]) -> tuple[np.ndarray, Sampling]:
    """(end tokens [R, STOPS], sampling) of the samples in the slots; copies, which later calls leave as they are."""
    for slot, (sample, known) in enumerate(zip(samples, self._samples)):
      if sample is not known:
        self._set(slot, sample)
    copied = {name: value.copy() for name, value in self._sampling.items()}
    return self._stops.copy(), Sampling(**copied)

  def _set(self, slot: int, sample: Sequence | None) -> None:
    stops = sample.request.stops[:STOPS] if sample else ()
    values = sample.request.sampling(sample.sample) if sample else self._idle
    self._stops[slot] = -1
    self._stops[slot, : len(stops)] = stops
    for name, value in values.items():
      self._sampling[name][slot] = value
    self._samples[slot] = sample


def segment(s: Scheduler, ready: Rows[Sequence], requests: SlotRequests) -> tuple[tree.Plan, Slots]:
  """What a segment of the sequences that are ready reads."""
  slots = [sequence.slot for sequence in ready]
  samples: list[Sequence | None] = [None] * len(s.slots)
  for slot, sequence in zip(slots, ready):
    samples[slot] = sequence
  stops, sampling = requests.update(samples)

  def by_slot(values: Rows[int]) -> np.ndarray:
    rows = np.zeros(len(samples), np.int32)
    rows[slots] = values
    return rows

  position = by_slot([sequence.target for sequence in ready])
  counts = by_slot(s.counts[slots])
  inputs = Slots(
    token=by_slot([sequence.content.last() for sequence in ready]),
    position=position,
    limit=by_slot([sequence.remaining for sequence in ready]),
    stops=stops,
    sampling=sampling,
    pages=_pages_ahead(s, position, counts),
  )
  return _plan_of_slots(s, counts), inputs


def _plan_of_slots(s: Scheduler, counts: np.ndarray) -> tree.Plan:
  rows = len(counts)
  table = s.tables[:, : counts.max(initial=0)]
  capacity = tree.capacities(rows, s.longest, len(s.pool.references))
  return tree.from_table(table, counts, np.ones_like(counts), np.zeros(rows), page_size=s.page_size, capacity=capacity)


def _pages_ahead(s: Scheduler, position: np.ndarray, counts: np.ndarray) -> np.ndarray:
  """int32 [R, T]: each slot's pages from the one of `position` on, an index out of range where there is none."""
  ahead = (s.segment + s.page_size - 2) // s.page_size + 1
  depth = position[:, None] // s.page_size + np.arange(ahead)
  listed = depth < counts[:, None]
  rows = np.arange(len(counts))[:, None]
  pages = s.tables[rows, np.where(listed, depth, 0)]
  return np.where(listed, pages, len(s.pool.references)).astype(np.int32)
