"""Pages, prefixes and sequences without a model: a page "holds" what was written to it; each must read its own."""

import collections

import numpy as np
import pytest

from core.engine.request import Request
from core.engine.scheduling.content import Content, Prompt
from core.engine.scheduling.pages import PagePool
from core.engine.scheduling.prefix_cache import PrefixCache
from core.engine.scheduling.queue import WaitQueue
from core.engine.scheduling.scheduler import Scheduler
from core.engine.scheduling.sequence import Sequence


def content(names, size=4):
  """Content of some names."""
  return Content(Prompt(np.array(names, np.int64), size))


def sequence(id, request, names, size, sample=0):
  """A sequence with content of its own."""
  return Sequence(id, request, sample, content(names, size))


def names(row):
  """All names of a sequence."""
  return row.content.names(0, len(row.content)).tolist()


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
      self.pages[row.pages[t // self.s.page_size], t % self.s.page_size] = names(row)[t]

  def check(self, row):
    held = self.pages[row.pages].reshape(-1)[: row.filled]
    assert held.tolist() == names(row)[: row.filled]


def references_add_up(s: Scheduler):
  """Every reference is a running row's or the cache's."""
  found = collections.Counter(page for row in s.running for page in row.pages.tolist())
  found.update(s.cache.pages)
  assert [found[p] for p in range(len(s.pool.references))] == s.pool.references.tolist()
  assert s.pool.free == (s.pool.references == 0).sum()
  for page in s.cache.pages:  # a leaf that no sequence uses can be evicted
    node = s.cache._node_of[page]
    assert node.alive and node.queued >= (not node.children and s.pool.references[page] == 1)


def segment(s: Scheduler, memory: Memory, r, chunk=5):
  """One step of an engine; returns the rows that are finished."""
  s.grow()
  for _ in range(r.integers(1, 5)):
    before = list(s.running)
    memory.copy(s.admit())
    left, came = ([row for row in a if row not in b] for a, b in ((before, s.running), (s.running, before)))
    assert all(row.request.priority < max(new.request.priority for new in came) for row in left)
    for row, start, stop in s.unfilled(chunk):
      memory.write(row, start, stop)
      s.set_filled(row, stop)
  done = []
  for row in list(s.running):
    memory.check(row)
    if row.ready:
      count = int(r.integers(1, min(s.segment, row.remaining) + 1))
      new = r.integers(0, 2, count).tolist()
      before = row.target
      row_after = names(row) + new
      for t in range(before, before + count):
        memory.pages[row.pages[t // s.page_size], t % s.page_size] = row_after[t]
      s.append(row, new, [0.0] * count, 0, count)
      memory.check(row)
      if not row.remaining or r.random() < 0.1:
        s.remove(row)
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
        row = sequence(made, Request(prompt, new, priority=int(r.integers(0, 2))), prompt, 4, sample)
        s.add(row)
        rows.append(row)
        made += 1
    elif kind < 0.3 and rows:
      row = rows[r.integers(len(rows))]
      if row.slot is not None:
        s.share_pages(row)
      if row.remaining > 1:
        request = Request(names(row), row.remaining, priority=row.request.priority)
        fork = Sequence(made, request, 0, Content(row.content.fork(len(row.content))))
        s.add(fork)
        rows.append(fork)
        made += 1
    elif kind < 0.34 and rows:
      s.remove(rows.pop(r.integers(len(rows))))
    elif kind < 0.345:
      s.clear()
      memory.pages[:] = -(10**9)
    else:
      done = segment(s, memory, r)
      finished += len(done)
      rows = [row for row in rows if row not in done]
    if step % 7 == 0:
      references_add_up(s)
    assert {row.id for row in [*s.running, *s.queue]} == {row.id for row in rows}
  while rows:
    done = segment(s, memory, r)
    rows = [row for row in rows if row not in done]
  references_add_up(s)
  s.cache.clear()
  assert s.pool.free == 16 and not s.pool.references.any()
  assert finished > 1000 and s.preempted > 100


def find(cache, names):
  """(full pages, page to copy from and how many tokens) of some names."""
  c = content(names)
  match = cache.match(c, len(names))
  return match.pages.tolist(), cache.partial(c, len(names), match)


def test_prefixes_find_the_longest_known_beginning():
  pool = PagePool(8)
  cache = PrefixCache(pool, 4)
  pages = pool.take(3)
  first = pages.tolist()
  held = np.arange(10)
  cache.insert(content(held), 10, pages, partial=True)
  assert find(cache, held) == (first[:2], (first[2], 2))
  assert find(cache, np.append(held[:9], 99)) == (first[:2], (first[2], 1))
  assert find(cache, np.append(held[:6], [7, 7, 7])) == (first[:1], (first[1], 2))
  assert find(cache, np.array([5, 6])) == ([], None)
  cache.insert(content(np.arange(11)), 11, pages, partial=True)  # the last page has grown
  assert len(cache) == 3 and find(cache, np.arange(12)) == (first[:2], (first[2], 3))
  cache.release(pages)
  cache.evict(6)
  assert pool.free == 6 and find(cache, held) == (first[:2], None)  # leaves first


def test_the_least_recently_used_leaves_are_evicted_first_and_a_use_counts_for_those_before_it():
  pool = PagePool(5)
  cache = PrefixCache(pool, 2)
  for names in ([1, 1, 2, 2], [3, 3], [1, 1, 4, 4]):
    pages = pool.take(len(names) // 2)
    cache.insert(content(names, 2), len(names), pages, partial=True)
    cache.release(pages)
  cache.match(content([3, 3], 2), 2)
  cache.match(content([1, 1, 2, 2], 2), 4)
  cache.evict(2)
  assert len(cache) == 3 and len(cache.match(content([1, 1, 4, 4], 2), 4).pages) == 1
  cache.evict(3)
  assert len(cache) == 2 and not len(cache.match(content([3, 3], 2), 2).pages)
  cache.evict(5)
  assert len(cache) == 0


def test_the_cost_of_a_match_does_not_grow_with_the_prompts_that_share_a_head():
  """4,000 prompts whose common head ends inside a page: a few keys are compared for each, not all of them."""
  pool = PagePool(9000)
  cache = PrefixCache(pool, 16)
  r = np.random.default_rng(0)
  head = r.integers(0, 100, 40)
  tails = r.integers(0, 100, (4000, 20))
  for tail in tails:
    c = content([*head, *tail], 16)
    match = cache.match(c, 59)
    cache.partial(c, 59, match)
    pages = pool.take(4)[len(match.pages) :]
    cache.insert(c, 60, np.concatenate([match.pages, pages]), partial=True)
    pool.drop(np.setdiff1d(np.arange(0), pages))
    if pool.free < 10:
      break
  done = cache.compared
  assert len(cache) > 1000 and done < 8 * len(cache)


def test_requests_that_cannot_finish_are_refused():
  s = Scheduler(slots=1, pages=4, page_size=4, segment=4)
  s.add(sequence(0, Request([1] * 9, 8), [1] * 9, 4))
  with pytest.raises(ValueError, match='need 5 pages; there are 4'):
    s.add(sequence(1, Request([1] * 9, 9), [1] * 9, 4))


def test_higher_priority_enters_first_and_the_youngest_is_preempted():
  s = Scheduler(slots=2, pages=6, page_size=2, segment=2)
  rows = [sequence(i, Request([i] * 3, 8, priority=p), [i] * 3, 2) for i, p in enumerate((0, 1, 0))]
  for row in rows:
    s.add(row)
  s.admit()
  assert [row.slot is not None for row in rows] == [True, True, False]
  memory = Memory(s)
  while rows[0].slot is not None:
    s.grow()
    for row, start, stop in s.unfilled(9):
      memory.write(row, start, stop)
      s.set_filled(row, stop)
    for row in s.running:
      s.append(row, [7, 7], [0.0, 0.0], 0, 2)
  assert rows[1].slot is not None and s.preempted == 1


def test_higher_priority_takes_the_place_of_the_youngest_of_the_lowest():
  """One slot each time, and only where that is enough: pages of equals are not given up."""
  s = Scheduler(slots=3, pages=9, page_size=2, segment=2)
  rows = [
    sequence(i, Request([i] * length, 2, priority=p), [i] * length, 2)
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
    sequence(i, Request([i] * 3, 2, priority=p), [i] * length, 2)
    for i, (length, p) in enumerate([(3, 1), (3, 0), (5, 1)])
  ]
  add(0, 1)
  add(2)  # needs three pages: two would be too few
  assert running() == [0, 1] and not s.preempted


def test_the_queue_drops_removed_sequences_without_a_search():
  q = WaitQueue()
  rows = [sequence(i, Request([1], 1, priority=i % 3), [1], 4) for i in range(100)]
  for row in rows:
    q.push(row)
  for row in rows[::2]:
    q.remove(row)
  assert len(q) == 50 and {row.id for row in q} == {row.id for row in rows[1::2]}
  assert [q.pop().id for _ in range(50)] == [row.id for row in sorted(rows[1::2], key=lambda row: row.order)]
  assert q.first() is None
  with pytest.raises(IndexError):
    q.pop()


def test_pool_refuses_free_pages():
  pool = PagePool(1)
  page = pool.take(1)
  with pytest.raises(IndexError):
    pool.take(1)
  pool.drop(page)
  for wrong in (pool.drop, pool.share):
    with pytest.raises(ValueError, match='page 0 is free'):
      wrong(page)
