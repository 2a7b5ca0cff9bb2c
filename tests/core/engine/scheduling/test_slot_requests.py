"""How slots draw and end: written when another sample enters; tables over the vocabulary only where they differ."""

import numpy as np

from core.engine.device import STOPS
from core.engine.request import Request
from core.engine.scheduling.scheduler import Scheduler
from core.engine.scheduling.sequence import Prompt, Sequence
from core.engine.scheduling.slot_requests import SlotRequests

VOCAB = 10


def setup(*requests):
  """(scheduler with these requests in slots, their samples, the slots' requests, the calls that set tables)."""
  scheduler = Scheduler(slots=2, pages=16, page_size=4, segment=4)
  samples = [Sequence(i, r, i, Prompt(np.array(r.prompt, np.int64))) for i, r in enumerate(requests)]
  for sample in samples:
    scheduler.add(sample)
  scheduler.admit(2)
  calls = []
  slots = SlotRequests(2, VOCAB)
  slots.update(scheduler, lambda *call: calls.append(call))
  return scheduler, samples, slots, calls


def test_each_slot_has_the_options_of_its_sample():
  first = Request([1, 2], 4, stops=tuple(range(STOPS + 3)), temperature=0.5, top_k=3, seed=7)
  _, _, slots, _ = setup(first, Request([3], 4, seed=2**31 - 1))
  stops, sampling, *_ = slots.arrays()
  assert stops.tolist() == [list(range(STOPS)), [-1] * STOPS]  # the host checks the others
  assert sampling.seed.tolist() == [7, 0]  # the second sample of its request: a seed past the last begins at 0
  assert sampling.top_k.tolist() == [3, 0] and sampling.temperature.tolist() == [0.5, 0.0]


def test_arrays_of_a_segment_do_not_change_with_the_slots():
  scheduler, samples, slots, _ = setup(Request([1], 4, seed=7))
  before = slots.arrays()[1]
  scheduler.remove(samples[0])
  slots.update(scheduler, lambda *call: None)
  assert before.seed[0] == 7 and slots.arrays()[1].seed[0] == 0


def test_tables_are_set_only_where_they_change():
  mask = np.arange(VOCAB) < 4
  *_, calls = setup(Request([1, 2], 4), Request([3], 4, allowed=mask, repetition_penalty=1.5))
  assert [slot for slot, _, _ in calls] == [1]  # the first has those that slots start with
  _, allowed, seen = calls[0]
  assert allowed.tolist() == mask.tolist() and np.flatnonzero(seen).tolist() == [3]
