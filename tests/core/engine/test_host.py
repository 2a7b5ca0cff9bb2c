"""The work of the host in one step, counted: it depends on the slots, not on the queue or on how prompts overlap."""

import numpy as np
import pytest

from bench.perf.engine_host import Sizes, make
from core.engine import Request
from core.engine.engine import MOST_ADMITTED, MOST_LEAVING

SIZES = Sizes(slots=8, page_size=4, segment=4, chunk=32)


def steps(requests, count=30):
  """An engine that worked on these for some steps, and the most (sequences looked at, keys compared) in one step."""
  engine, _ = make(SIZES)
  for request in requests:
    engine.submit(request)
  most = np.zeros(2, int)
  for _ in range(count):
    before = np.array([engine.scheduler.examined, engine.scheduler.cache.compared])
    engine.step()
    after = np.array([engine.scheduler.examined, engine.scheduler.cache.compared])
    most = np.maximum(most, after - before)
  assert engine.stats.decoded > 0
  return engine, most.tolist()


def few(r):
  return [Request(r.integers(1, 99, 12).tolist(), 8) for _ in range(40)]


def many(r):
  return [Request(r.integers(1, 99, 12).tolist(), 8) for _ in range(4000)]


def common_head(r):
  head = r.integers(1, 99, 42).tolist()
  return [Request([*head, *r.integers(1, 99, 3).tolist()], 8) for _ in range(2000)]


def one_prompt(r):
  return [Request(r.integers(1, 99, 200).tolist(), 8, n=2000)]


@pytest.mark.slow
@pytest.mark.parametrize('workload', [few, many, common_head, one_prompt])
def test_a_step_looks_at_a_bounded_number_of_sequences(workload):
  _, (examined, compared) = steps(workload(np.random.default_rng(0)))
  # Each call of `admit` passes over at most one sample a slot, and
  # a step calls it once for each of a few chunks of prompt tokens.
  assert examined <= 10 * (SIZES.slots + 1)
  assert compared <= 12 * SIZES.slots


def test_samples_of_one_prompt_share_their_content():
  engine, _ = make(SIZES)
  engine.submit(Request(list(range(1, 101)), 4, n=50))
  (group,) = [group for _, group in engine.scheduler.queue._heap]
  assert len(group) == 50
  prompts = {id(s.prompt) for s in engine.scheduler.queue}
  assert len(prompts) == 1 and len(engine.scheduler.queue) == 50


def test_a_prompt_is_one_node_of_the_cache_and_a_response_another():
  """The full pages of either are one run, and a last page that is not full is a node of its own."""
  engine, _ = make(SIZES)
  engine.submit(Request(list(range(1, 102)), 40, n=50))
  engine.run()
  assert len(engine.scheduler.cache) > 25 + 50 * 9
  assert sum(1 for _ in engine.scheduler.cache.nodes()) <= 1 + 1 + 2 * 50


def test_cancelling_does_not_search_the_queue():
  engine, _ = make(SIZES)
  ids = [id for request in many(np.random.default_rng(0)) for id in engine.submit(request)]
  heap = engine.scheduler.queue._heap
  for id in ids[:1000]:
    engine.cancel(id)
  assert engine.scheduler.queue._heap is heap and len(heap) == 4000  # entries are marked, not searched for
  for id in ids[1000:]:
    engine.cancel(id)
  assert engine.idle and len(engine.scheduler.queue._heap) <= 16 and engine.step() == []


def test_entries_of_a_step_are_bounded_and_no_segment_is_decoded_with_slots_that_they_leave_empty():
  engine, fake = make(Sizes(slots=2 * MOST_ADMITTED, page_size=4, segment=4, chunk=32))
  busy = []  # slots of each decoded segment
  decode = fake.decode
  fake.decode = lambda plan, slots: busy.append(int((slots.limit > 0).sum())) or decode(plan, slots)
  engine.submit(Request(list(range(1, 13)), 4, n=4 * MOST_ADMITTED))
  while not engine.idle:
    before = engine.scheduler.admitted
    engine.step()
    assert engine.scheduler.admitted - before <= MOST_ADMITTED
  assert busy == [2 * MOST_ADMITTED] * 2


def test_samples_that_end_together_leave_over_several_steps_and_decode_no_more():
  slots = 2 * MOST_LEAVING
  engine, _ = make(Sizes(slots=slots, page_size=4, segment=4, chunk=32))
  ids = engine.submit(Request(list(range(1, 13)), 4, n=slots))
  done = []
  while not done:
    done = engine.step()
  decoded = engine.stats.decoded
  assert len(done) == MOST_LEAVING and not engine.idle
  early = engine.cancel(ids[-1])
  assert early.reason == 'length' and len(early.tokens) == 4  # it ended before
  done += engine.step()
  assert engine.idle and engine.stats.decoded == decoded == 4 * slots
  assert sorted(c.id for c in [*done, early]) == ids
  assert {(c.reason, len(c.tokens)) for c in done} == {('length', 4)}
