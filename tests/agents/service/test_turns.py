"""Shares of the workers' time, on a clock that the test moves."""

import collections
import heapq

from agents.service.turns import Turns


class Workers:
  """Workers that serve trajectories for ever: each has some calls at a time, all of one length in seconds."""

  def __init__(self, count: int):
    self.free = count
    self.now = 0.0
    self.turns = Turns(lambda: self.now)
    self.seconds = collections.Counter()
    self._length = {}
    self._waits = collections.Counter()
    self._running = []

  def ask(self, name: str, length: float, calls: int = 1) -> None:
    """The trajectory asks for `calls` calls, and for another whenever one has ended."""
    self._length[name] = length
    for _ in range(calls):
      self._wait(name)

  def work(self, until: float) -> None:
    """Begins and ends calls."""
    while self.now < until:
      while self.free and (name := self.turns.begin(lambda name: True)):
        self.free -= 1
        heapq.heappush(self._running, (self.now + self._length[name], name))
        self._waits[name] -= 1
        if self._waits[name]:
          self.turns.wait(name)
      self.now, name = heapq.heappop(self._running)
      self.turns.end(name)
      self.free += 1
      self.seconds[name] += self._length[name]
      self._wait(name)

  def _wait(self, name: str) -> None:
    self._waits[name] += 1
    if self._waits[name] == 1:
      self.turns.wait(name)


def test_shares_are_equal_whatever_the_number_and_the_length_of_calls():
  for count in (1, 2):
    workers = Workers(count)
    workers.ask('many long', 1.0, calls=50)
    workers.ask('long', 1.0)
    for n in range(3):
      workers.ask(f'short {n}', 0.01)
    workers.work(until=200.0)
    assert len(workers.seconds) == 5
    assert max(workers.seconds.values()) - min(workers.seconds.values()) < 2.0, workers.seconds


def test_nobody_saves_up_and_nobody_pays_for_time_that_nobody_wanted():
  workers = Workers(1)
  workers.ask('first', 1.0, calls=9)
  workers.work(until=100.0)
  before = workers.seconds['first']
  workers.ask('second', 1.0, calls=9)
  workers.work(until=120.0)
  assert abs(workers.seconds['first'] - before - workers.seconds['second']) <= 2.0


def test_running_calls_count_before_they_have_ended():
  now = [0.0]
  turns = Turns(lambda: now[0])
  turns.wait('a')
  assert turns.begin(lambda name: True) == 'a'
  turns.wait('a')
  now[0] = 1.0
  turns.wait('b')
  assert [turns.begin(lambda name: True) for _ in range(3)] == ['b', 'a', None]


def test_one_that_is_not_ready_keeps_its_place():
  turns = Turns(lambda: 0.0)
  for name in 'ab':
    turns.wait(name)
  assert turns.begin(lambda name: name != 'a') == 'b'
  assert turns.begin(lambda name: name == 'b') is None
  assert turns.begin(lambda name: True) == 'a'


def test_trajectories_that_are_gone_are_forgotten():
  now = [0.0]
  turns = Turns(lambda: now[0])
  for name in range(10_000):
    turns.wait(name)
    turns.begin(lambda name: True)
    now[0] += 0.01
    turns.end(name)
    turns.wait('steady')
    turns.begin(lambda name: True)
    now[0] += 0.02
    turns.end('steady')
  assert len(turns._used) < 200
