"""Which request speaks in which row, and when: continuous batching on the host.

A request waits for a free row, its prompt is read piece by piece between the steps of the others, then it speaks until
it ends, reaches its limit or is cancelled. The device is behind `Rows`, so that this logic is tested without a model.
"""

import collections
import dataclasses
import itertools
from typing import Any, Literal

import numpy as np


@dataclasses.dataclass(frozen=True)
class Request:
  """What one row speaks.

  tokens: int32 [T], the last one START. slots: bool [T], the places of `latents` float32 [F, C]. limit: tokens that it
  may speak at most; by default what the context holds. scale, seed: as of `generation.begin`.
  """

  tokens: np.ndarray
  slots: np.ndarray
  latents: np.ndarray
  scale: float = 1.3
  seed: int = 0
  limit: int | None = None


@dataclasses.dataclass(frozen=True)
class Made:
  """News of one request: `samples` float32 [N] of a frame, or None, and how it ended, if it did.

  'failed': its logits are NaN or infinite. After an `end` nothing follows.
  """

  ticket: int
  samples: np.ndarray | None = None
  end: Literal['', 'complete', 'truncated', 'failed'] = ''


@dataclasses.dataclass
class _Row:
  """A row that is taken. read: tokens of the prompt so far. spoken: tokens chosen so far."""

  ticket: int
  request: Request
  limit: int
  read: int = 0
  spoken: int = 0

  @property
  def prompt(self) -> int:
    """Tokens to read: START belongs to the first step."""
    return len(self.request.tokens) - 1

  @property
  def is_speaking(self) -> bool:
    return self.read == self.prompt

  @property
  def needed(self) -> int:
    """Slots after the next piece or step."""
    return self.prompt + self.spoken + 1


class Scheduler:
  """Requests over rows; `step` does the work. Not safe to call from several threads at once.

  rows: a `rows.Rows`, or what has its `count`, `longest`, `piece`, `capacity`, `restart`, `reserve`, `settle`, `read`
  and `step`.
  """

  def __init__(self, rows: Any):
    self._rows = rows
    self._taken: dict[int, _Row] = {}  # in the order in which they were taken
    self._waiting: collections.deque[_Row] = collections.deque()
    self._leaving = np.zeros(rows.count, bool)
    self._tickets = itertools.count()

  @property
  def is_idle(self) -> bool:
    """Whether `step` has nothing to do."""
    return not (self._taken or self._waiting)

  @property
  def running(self) -> int:
    """Rows that are taken."""
    return len(self._taken)

  @property
  def waiting(self) -> int:
    """Requests without a row."""
    return len(self._waiting)

  def submit(self, request: Request) -> int:
    """The ticket of a request, which `Made` and `cancel` name.

    Raises ValueError if its prompt leaves no token of the context (by how many), and for a limit below 1.
    """
    row = _Row(next(self._tickets), request, limit=_limit(request, self._rows.longest))
    self._waiting.append(row)
    return row.ticket

  def cancel(self, ticket: int) -> None:
    """Frees the row of a request, or its place in the queue; nothing if it has ended."""
    self._waiting = collections.deque(row for row in self._waiting if row.ticket != ticket)
    for number, row in list(self._taken.items()):
      if row.ticket == ticket:
        self._leaving[number] = True
        del self._taken[number]

  def step(self) -> list[Made]:
    """Gives free rows away, reads a piece of the oldest unread prompt, then takes a step of all rows that speak."""
    self._admit()
    self._rows.reserve(max((row.needed for row in self._taken.values()), default=0))
    enter = np.zeros(self._rows.count, bool)
    number = self._read()
    if number is not None:
      enter[number] = self._taken[number].is_speaking
    speaking = [number for number, row in self._taken.items() if row.is_speaking]
    if not speaking:
      return []
    leave = self._leaving
    self._leaving = np.zeros_like(self._leaving)
    frame, ended = self._rows.step(enter, leave)
    return [self._news(number, frame, ended) for number in speaking]

  def _admit(self) -> None:
    if not self._taken and self._waiting:
      self._begin_small()
    free = [number for number in range(self._rows.count) if number not in self._taken]
    for number in free[: len(self._waiting)]:
      row = self._waiting.popleft()
      self._taken[number] = row
      self._rows.settle(number, scale=row.request.scale, seed=row.request.seed, limit=row.limit)

  def _begin_small(self) -> None:
    """Small caches again after the rows that needed large ones: a step reads a cache whole."""
    if self._rows.capacity > self._rows.smallest:
      self._rows.restart()
      self._leaving[:] = False

  def _read(self) -> int | None:
    """Reads a piece of the oldest prompt that is not read yet; its row, None if all are read."""
    unread = [number for number, row in self._taken.items() if not row.is_speaking]
    if not unread:
      return None
    number = unread[0]
    row = self._taken[number]
    request = row.request
    end = min(row.read + self._rows.piece, row.prompt)
    before, upto = (int(request.slots[:n].sum()) for n in (row.read, end))
    self._rows.read(number, request.tokens[row.read : end], request.latents[before:upto], first=row.read == 0)
    row.read = end
    return number

  def _news(self, number: int, frame: Any, ended: Any) -> Made:
    """What a step made of one row; frees it if it ended."""
    row = self._taken[number]
    row.spoken += 1
    end = _end(ended, number)
    if end:
      del self._taken[number]
    samples = None
    if frame.spoken[number]:
      samples = frame.samples[number]
    return Made(row.ticket, samples, end)


def _end(ended: Any, number: int) -> Literal['', 'complete', 'truncated', 'failed']:
  """How a row ended after a step, '' if it did not."""
  if not ended.finished[number]:
    return ''
  if ended.failed[number]:
    return 'failed'
  if ended.truncated[number]:
    return 'truncated'
  return 'complete'


def _limit(request: Request, longest: int) -> int:
  """Tokens that a request may speak."""
  tokens = len(request.tokens)
  free = longest - tokens
  if free < 1:
    raise ValueError(f'a prompt of {tokens} tokens is {1 - free} too long: the context is {longest} with the speech')
  if request.limit is None:
    return free
  if request.limit < 1:
    raise ValueError(f'limit={request.limit}: expected at least 1 token')
  return min(free, request.limit)
