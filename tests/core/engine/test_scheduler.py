"""Pages, prefixes and rows without a model: a page "holds" the content written to it, and rows must read their own."""

import collections

import numpy as np
import pytest

from core.engine.pool import Pool
from core.engine.prefixes import Prefixes
from core.engine.request import Request
from core.engine.scheduler import Row, Scheduler


class Memory:
  """What the device would do: pages as arrays of content."""

  def __init__(self, s: Scheduler):
    self.s, self.pages = s, np.full((len(s.pool.references), s.page_size), -(10**9))

  def copy(self, copies):
    sources = [self.pages[a].copy() for a, _ in copies]
    for (_, b), held in zip(copies, sources):
      self.pages[b] = held

  def write(self, row, start, stop):
    for t in range(start, stop):
      assert self.s.pool.references[row.pages[t // self.s.page_size]] >= 1
      self.pages[row.pages[t // self.s.page_size], t % self.s.page_size] = row.content[t]

  def check(self, row):
    held = self.pages[row.pages].reshape(-1)[: row.filled]
    assert held.tolist() == row.content[: row.filled]


def references_add_up(s: Scheduler):
  """Every reference is a running row's or the cache's."""
  found = collections.Counter(page for row in s.running for page in row.pages)
  found.update(node.page for node in s.prefixes._age)
  assert [found[p] for p in range(len(s.pool.references))] == s.pool.references
  assert s.pool.free == s.pool.references.count(0)


def segment(s: Scheduler, memory: Memory, r, chunk=5):
  """One step of an engine; returns the rows that are finished."""
  s.grow()
  for _ in range(r.integers(1, 5)):
    before = s.running
    memory.copy(s.admit())
    left, came = ([row for row in a if row not in b] for a, b in ((before, s.running), (s.running, before)))
    assert all(row.request.priority < max(new.request.priority for new in came) for row in left)
    for row, start, stop in s.unfilled(chunk):
      memory.write(row, start, stop)
      s.filled(row, stop)
  done = []
  for row in s.running:
    memory.check(row)
    if row.ready:
      count = int(r.integers(1, min(s.segment, row.remaining) + 1))
      new = r.integers(0, 2, count).tolist()
      before = row.target
      row_after = row.content + new
      for t in range(before, before + count):
        memory.pages[row.pages[t // s.page_size], t % s.page_size] = row_after[t]
      s.append(row, new, [0.0] * count, 0, count)
      memory.check(row)
      if not row.remaining or r.random() < 0.1:
        s.leave(row)
        done.append(row)
  return done


def test_no_page_leaks_and_no_row_reads_anothers_content():
  """10,000 random operations with scarce pages: submissions, segments, forks, cancellations, updates."""
  r = np.random.default_rng(0)
  s = Scheduler(slots=4, pages=16, page_size=4, segment=3)
  memory = Memory(s)
  rows, made, finished = [], 0, 0
  prompts = [r.integers(0, 2, n).tolist() for n in (1, 3, 9, 17, 30)]
  for step in range(10_000):
    kind = r.random()
    if kind < 0.25 and len(rows) < 12:
      prompt = prompts[r.integers(len(prompts))]
      new = int(r.integers(1, 20))
      for sample in range(r.integers(1, 4)):
        row = Row(made, Request(prompt, new, priority=int(r.integers(0, 2))), sample, list(prompt))
        s.add(row)
        rows.append(row)
        made += 1
    elif kind < 0.3 and rows:
      row = rows[r.integers(len(rows))]
      if row.slot is not None:
        s.remember(row)
      if row.remaining > 1:
        fork = Row(made, Request(row.content, row.remaining, priority=row.request.priority), 0, list(row.content))
        s.add(fork)
        rows.append(fork)
        made += 1
    elif kind < 0.34 and rows:
      s.leave(rows.pop(r.integers(len(rows))))
    elif kind < 0.345:
      s.forget()
      memory.pages[:] = -(10**9)
    else:
      done = segment(s, memory, r)
      finished += len(done)
      rows = [row for row in rows if row not in done]
    if step % 7 == 0:
      references_add_up(s)
    assert {row.id for row in s.running + s.waiting} == {row.id for row in rows}
  while rows:
    done = segment(s, memory, r)
    rows = [row for row in rows if row not in done]
  references_add_up(s)
  s.prefixes.clear()
  assert s.pool.free == 16 and not any(s.pool.references)
  assert finished > 1000 and s.preempted > 100


def test_prefixes_find_the_longest_known_beginning():
  pool = Pool(8)
  cache = Prefixes(pool, 4)
  pages = [pool.take() for _ in range(3)]
  content = np.arange(10)
  cache.insert(content, pages)
  assert cache.match(content) == (pages[:2], (pages[2], 2))
  assert cache.match(np.append(content[:9], 99)) == (pages[:2], (pages[2], 1))
  assert cache.match(np.append(content[:6], [7, 7, 7])) == (pages[:1], (pages[1], 2))
  assert cache.match(np.array([5, 6])) == ([], None)
  cache.insert(np.arange(11), pages)  # the last page has grown
  assert len(cache) == 3 and cache.match(np.arange(12)) == (pages[:2], (pages[2], 3))
  for page in pages:
    pool.drop(page)
  cache.evict(6)
  assert pool.free == 6 and cache.match(content) == (pages[:2], None)  # leaves first


def test_requests_that_cannot_finish_are_refused():
  s = Scheduler(slots=1, pages=4, page_size=4, segment=4)
  s.add(Row(0, Request([1] * 9, 8), 0, [1] * 9))
  with pytest.raises(ValueError, match='need 5 pages; there are 4'):
    s.add(Row(1, Request([1] * 9, 9), 0, [1] * 9))


def test_higher_priority_enters_first_and_the_youngest_is_preempted():
  s = Scheduler(slots=2, pages=6, page_size=2, segment=2)
  rows = [Row(i, Request([i] * 3, 8, priority=p), 0, [i] * 3) for i, p in enumerate((0, 1, 0))]
  for row in rows:
    s.add(row)
  s.admit()
  assert [row.slot is not None for row in rows] == [True, True, False]
  memory = Memory(s)
  while rows[0].slot is not None:
    s.grow()
    for row, start, stop in s.unfilled(9):
      memory.write(row, start, stop)
      s.filled(row, stop)
    for row in s.running:
      s.append(row, [7, 7], [0.0, 0.0], 0, 2)
  assert rows[1].slot is not None and s.preempted == 1


def test_higher_priority_takes_the_place_of_the_youngest_of_the_lowest():
  """One slot each time, and only where that is enough: pages of equals are not given up."""
  s = Scheduler(slots=3, pages=9, page_size=2, segment=2)
  rows = [
    Row(i, Request([i] * length, 2, priority=p), 0, [i] * length)
    for i, (length, p) in enumerate([(3, 0), (3, 1), (3, 0), (3, 1), (5, 2), (9, 2)])
  ]
  running = lambda: [row.id for row in s.running]
  add = lambda *ids: [s.add(rows[i]) for i in ids] and s.admit()
  add(0, 1, 2)
  assert running() == [1, 0, 2]
  add(3)
  assert running() == [1, 3, 0] and s.preempted == 1
  add(4)
  assert running() == [4, 1, 3] and s.preempted == 2
  add(5)  # needs five pages: those of 1 and 3 and the ones that are free would do
  assert running() == [4, 5] and s.preempted == 4
  references_add_up(s)
  s = Scheduler(slots=3, pages=4, page_size=2, segment=2)
  rows = [
    Row(i, Request([i] * 3, 2, priority=p), 0, [i] * length) for i, (length, p) in enumerate([(3, 1), (3, 0), (5, 1)])
  ]
  add(0, 1)
  add(2)  # needs three pages: two would be too few
  assert running() == [0, 1] and not s.preempted


def test_pool_refuses_free_pages():
  pool = Pool(1)
  page = pool.take()
  with pytest.raises(IndexError):
    pool.take()
  pool.drop(page)
  for wrong in (pool.drop, pool.share):
    with pytest.raises(ValueError, match='page 0 is free'):
      wrong(page)
