"""Pages, prefixes and sequences without a model: a page "holds" what was written to it; each must read its own."""

import collections

import numpy as np
import pytest

from core.engine.request import Request
from core.engine.scheduling.scheduler import Scheduler
from core.engine.scheduling.sequence import Prompt, Sequence


def sequence(id, request, sample=0):
  """A sequence with a prompt of its own."""
  return Sequence(id, request, sample, Prompt(np.array(request.prompt, np.int64)))


def names(s, row):
  """All names of a sequence."""
  return s.rows.names(row, 0, s.rows.length(row)).tolist()


def pages(s, row):
  """The pages of a running sequence."""
  return s.rows.table[row.slot, : s.rows.pages[row.slot]]


def append(s, row, tokens, count):
  """Gives a running sequence tokens of a segment."""
  new = np.array([tokens], np.int32)
  one = np.array([len(tokens)])
  s.rows.append(np.array([row.slot]), new, np.zeros(new.shape, np.float32), one, np.array([count]), 0)


class Memory:
  """What the device would do: pages as arrays of content."""

  def __init__(self, s: Scheduler):
    self.s, self.pages = s, np.full((len(s.pool.references), s.page_size), -(10**9))

  def copy(self, copies):
    sources = [self.pages[a].copy() for a, _ in copies]
    for (_, b), held in zip(copies, sources):
      self.pages[b] = held

  def write(self, row, start, stop):
    table, known = pages(self.s, row), names(self.s, row)
    for t in range(start, stop):
      page = table[t // self.s.page_size]
      assert self.s.pool.references[page] >= 1
      self.pages[page, t % self.s.page_size] = known[t]

  def check(self, row):
    filled = self.s.rows.filled[row.slot]
    held = self.pages[pages(self.s, row)].reshape(-1)[:filled]
    assert held.tolist() == names(self.s, row)[:filled]


def references_add_up(s: Scheduler):
  """Every reference is the cache's, or a running row's to a page that it does not share; rows hold their nodes."""
  found = collections.Counter(s.cache.pages)
  held = collections.Counter()
  for row in s.running:
    held[row.node] += 1
    table = pages(s, row).tolist()
    found.update(table[row.node.stop :])
    assert table[: row.node.stop] == path(row.node)
  assert [found[p] for p in range(len(s.pool.references))] == s.pool.references.tolist()
  assert s.pool.free == (s.pool.references == 0).sum()
  root, *nodes = s.cache.nodes()
  held[root] += 1
  for node in [root, *nodes]:
    assert node.users == held[node]
    keys = [child.key for child in node.children]
    assert keys == sorted(set(keys))
    assert all(child.parent is node and child.content.startswith(child.key) for child in node.children)
    assert node.queued or node.users or node.children  # a leaf that no sequence holds can be evicted


def path(node):
  """The pages up to a node's last."""
  return path(node.parent) + node.pages.tolist() if node.parent else []


def remaining(s, row):
  """Tokens still wanted."""
  return row.request.max_new - len(s.rows.response(row).tokens)


def segment(s: Scheduler, memory: Memory, r, chunk=5):
  """One step of an engine; returns the rows that are finished."""
  s.grow()
  for _ in range(r.integers(1, 5)):
    before = list(s.running)
    memory.copy(s.admit(len(s.slots)))
    left, came = ([row for row in a if row not in b] for a, b in ((before, s.running), (s.running, before)))
    assert all(row.request.priority < max(new.request.priority for new in came) for row in left)
    for row, start, stop in s.unfilled(chunk):
      memory.write(row, start, stop)
      s.set_filled(row, stop)
  done = []
  for row in list(s.running):
    memory.check(row)
    if s.rows.is_ready(row.slot):
      count = int(r.integers(1, min(s.segment, remaining(s, row)) + 1))
      new = r.integers(0, 2, count).tolist()
      before = s.rows.length(row) - 1
      row_after = names(s, row) + new
      for t in range(before, before + count):
        memory.pages[pages(s, row)[t // s.page_size], t % s.page_size] = row_after[t]
      append(s, row, new, count)
      memory.check(row)
      if not remaining(s, row) or r.random() < 0.1:
        s.remove(row)
        done.append(row)
  return done


@pytest.mark.slow
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
      request = Request(prompt, new, priority=int(r.integers(0, 2)))
      count = int(r.integers(1, 4))
      shared = Prompt(np.array(prompt))
      samples = [Sequence(made + i, request, i, shared) for i in range(count)]
      s.add(*samples)
      rows += samples
      made += count
    elif kind < 0.3 and rows:
      row = rows[r.integers(len(rows))]
      if row.slot is not None:
        s.share_pages(row)
      if remaining(s, row) > 1:
        fork = sequence(made, Request(names(s, row), remaining(s, row), priority=row.request.priority))
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


def test_requests_that_cannot_finish_are_refused():
  s = Scheduler(slots=1, pages=4, page_size=4, segment=4)
  s.add(sequence(0, Request([1] * 9, 8)))
  with pytest.raises(ValueError, match='need 5 pages; there are 4'):
    s.add(sequence(1, Request([1] * 9, 9)))


def test_higher_priority_enters_first_and_the_youngest_is_preempted():
  s = Scheduler(slots=2, pages=6, page_size=2, segment=2)
  rows = [sequence(i, Request([i] * 3, 8, priority=p)) for i, p in enumerate((0, 1, 0))]
  for row in rows:
    s.add(row)
  s.admit(len(s.slots))
  assert [row.slot is not None for row in rows] == [True, True, False]
  memory = Memory(s)
  while rows[0].slot is not None:
    s.grow()
    for row, start, stop in s.unfilled(9):
      memory.write(row, start, stop)
      s.set_filled(row, stop)
    for row in s.running:
      append(s, row, [7, 7], 2)
  assert rows[1].slot is not None and s.preempted == 1


def test_higher_priority_takes_the_place_of_the_youngest_of_the_lowest():
  """One slot each time, and only where that is enough: pages of equals are not given up."""
  s = Scheduler(slots=3, pages=9, page_size=2, segment=2)
  rows = [
    sequence(i, Request([i] * length, 2, priority=p))
    for i, (length, p) in enumerate([(3, 0), (3, 1), (3, 0), (3, 1), (5, 2), (9, 2)])
  ]
  running = lambda: [row.id for row in s.running]
  add = lambda *ids: [s.add(rows[i]) for i in ids] and s.admit(len(s.slots))
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
  rows = [sequence(i, Request([i] * length, 2, priority=p)) for i, (length, p) in enumerate([(3, 1), (3, 0), (5, 1)])]
  add(0, 1)
  add(2)  # needs three pages: two would be too few
  assert running() == [0, 1] and not s.preempted
