"""Who waits in front of whom."""

import numpy as np
import pytest

from core.engine.request import Request
from core.engine.scheduling.queue import WaitQueue
from core.engine.scheduling.sequence import Prompt, Sequence


def sequence(id, request):
  """A sequence with a prompt of its own."""
  return Sequence(id, request, 0, Prompt(np.array(request.prompt, np.int64)))


def test_the_queue_drops_removed_sequences_without_a_search():
  q = WaitQueue()
  rows = [sequence(i, Request([1], 1, priority=i % 3)) for i in range(100)]
  for row in rows:
    q.push(row)
  for row in rows[::2]:
    q.remove(row)
  assert len(q) == 50 and {row.id for row in q} == {row.id for row in rows[1::2]}
  assert [q.pop().id for _ in range(50)] == [row.id for row in sorted(rows[1::2], key=lambda row: row.order)]
  assert q.first() is None
  with pytest.raises(IndexError):
    q.pop()


def test_samples_of_a_group_leave_one_by_one_in_order_and_wait_together():
  q = WaitQueue()
  low = [sequence(i, Request([1], 1)) for i in range(5)]
  high = sequence(7, Request([1], 1, priority=1))
  q.push(*low[:4])
  q.push(low[4])
  assert [q.pop().id for _ in range(2)] == [0, 1]
  q.push(low[0])  # preempted: before those that follow it
  assert q.pop().id == 0
  q.remove(low[2])
  assert q.first().id == 3
  passed = [q.pass_over()]
  assert q.first().id == 4 and len(q) == 2
  q.push(high)
  q.put_back(passed)
  assert [q.pop().id for _ in range(3)] == [7, 3, 4] and q.first() is None
