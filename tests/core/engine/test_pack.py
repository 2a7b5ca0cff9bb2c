"""Arrays of a prefill and of a segment, read back as the tables that the scheduler has."""

import numpy as np

from core.engine import pack
from core.engine.request import Request
from core.engine.scheduling.scheduler import Scheduler
from core.engine.scheduling.sequence import Prompt, Sequence
from core.engine.scheduling.slot_requests import SlotRequests


def scheduler(*prompts):
  s = Scheduler(slots=3, pages=32, page_size=4, segment=4)
  for i, prompt in enumerate(prompts):
    request = Request(prompt, 6)
    s.add(Sequence(i, request, 0, Prompt(np.array(request.prompt, np.int64))))
  s.admit(3)
  return s


def read(plan, rows):
  """For each row the pages that it reads, in order."""
  found = {row: [] for row in range(rows)}
  lists = (x[: plan.ends[-1]].tolist() for x in (plan.page, plan.start, plan.first, plan.readers))
  for page, start, first, readers in zip(*lists):
    for row in plan.order[first : first + readers].tolist():
      found[row].append((start, page))
  return [[page for _, page in sorted(found[row])] for row in range(rows)]


def test_prompts_are_packed_without_gaps_and_know_their_places():
  s = scheduler([5, 6, 7, 8, 9, 10], [1, 2, 3])
  work = s.unfilled(16)
  made = pack.prompts(s, work, 8, 16)
  assert made.names.tolist() == [5, 6, 7, 8, 9, 1, 2, 0]  # all but each last token, then padding
  assert made.positions.tolist() == [0, 1, 2, 3, 4, 0, 1, -1]
  nowhere = len(s.pool.references)
  places = [(int(s.rows.table[0, t // 4]), t % 4) for t in range(5)] + [(int(s.rows.table[1, 0]), t) for t in range(2)]
  assert list(zip(made.page.tolist(), made.offset.tolist()))[:7] == places and made.page[7] == nowhere
  assert made.plan.lengths.tolist() == [1, 2, 3, 4, 5, 1, 2, 0]
  expected = [s.rows.table[0, :2].tolist()] * 5 + [s.rows.table[1, :1].tolist()] * 2 + [[]]
  assert read(made.plan, 8) == expected


def test_a_segment_reads_the_pages_of_slots_that_are_ready_and_of_no_others():
  s = scheduler([5, 6, 7, 8, 9], [1, 2, 3])
  (first, start, stop), *_ = s.unfilled(16)
  assert (start, stop) == (0, 4)
  s.set_filled(first, stop)
  plan, slots = pack.segment(s, s.rows.ready, *SlotRequests(3, 20).arrays())
  assert s.rows.ready.tolist() == [True, False, False]
  assert slots.token.tolist() == [9, 0, 0] and slots.position.tolist() == [4, 0, 0]
  assert slots.limit.tolist() == [6, 0, 0]
  assert read(plan, 3) == [s.rows.table[0, : s.rows.pages[0]].tolist(), [], []]
  known = s.rows.pages[0] - 1  # pages from that of position 4 on
  assert slots.pages[0, :known].tolist() == s.rows.table[0, 1 : known + 1].tolist()
  assert (slots.pages[1:] == len(s.pool.references)).all()
