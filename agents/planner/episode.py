"""What one question left behind: the three memories of Memento (arXiv 2508.16153) as data, limits and clocks.

Case memory lives in `agents.memory`; an episode holds the cases that were read, the subtask memory (tasks and their
results) and the tool memory (every call of each task).
"""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

from agents.planner.context import estimate
from core.serving.client import Reply


@dataclasses.dataclass(frozen=True)
class Limits:
  """Limits at which an episode ends; seconds are wall-clock time."""

  cycles: int = 3  # plans
  steps: int = 30  # replies of the executor to one task
  calls: int = 8  # tool calls of one reply
  parallel: int = 4  # tool calls at a time
  call_seconds: float = 120.0
  seconds: float = 3600.0
  context_tokens: int = 175_000
  tokens: int = 2_000_000  # spent in all

  def __post_init__(self):
    for field in dataclasses.fields(self):
      if getattr(self, field.name) <= 0:
        raise ValueError(f'{field.name}={getattr(self, field.name)!r}: expected more than 0')


@dataclasses.dataclass(frozen=True)
class ToolCall:
  """One entry of the tool memory."""

  name: str
  arguments: str
  result: str
  failed: bool
  seconds: float


@dataclasses.dataclass(frozen=True)
class Subtask:
  """One entry of the subtask memory. `stop`: done, steps, empty, time, tokens or request_failed."""

  cycle: int
  id: int
  description: str
  result: str
  stop: str
  calls: tuple[ToolCall, ...]


@dataclasses.dataclass(frozen=True)
class Event:
  """Something worth showing: when (seconds from the start), what kind, a line, and the text behind it."""

  at: float
  kind: str
  title: str
  text: str = ''


@dataclasses.dataclass(frozen=True)
class Episode:
  """A finished question. `stop`: answered, no_answer, no_plan, time, tokens or request_failed.

  `plan` is the last valid plan as text, '' without one; `read` the ids of the cases that were shown; `selector` how
  they were chosen.
  """

  task_id: str
  question: str
  answer: str
  stop: str
  plan: str
  read: tuple[int, ...]
  selector: str
  planner: tuple[str, ...]  # its replies
  subtasks: tuple[Subtask, ...]
  events: tuple[Event, ...]
  prompt_tokens: int
  reply_tokens: int
  seconds: float

  def to_json(self) -> dict[str, Any]:
    """The episode as plain JSON values."""
    return dataclasses.asdict(self)


class Watch:
  """The clock, the token count and the event log of an episode under way."""

  def __init__(self, limits: Limits, on_event: Callable[[Event], None] = lambda event: None):
    self.limits = limits
    self.events = []
    self.prompt_tokens = self.reply_tokens = 0
    self._start = time.monotonic()
    self._on_event = on_event

  @property
  def seconds(self) -> float:
    return time.monotonic() - self._start

  @property
  def remaining(self) -> float:
    """Seconds until the episode has to end."""
    return max(0.001, self.limits.seconds - self.seconds)

  def left(self) -> float:
    """Seconds for one tool call."""
    return min(self.limits.call_seconds, self.remaining)

  def stop(self) -> str:
    """Why nothing more may begin, or ''."""
    if self.seconds >= self.limits.seconds:
      return 'time'
    if self.prompt_tokens + self.reply_tokens >= self.limits.tokens:
      return 'tokens'
    return ''

  def spend(self, turns, reply: Reply) -> None:
    """Counts one exchange, by the server's figures or, where it gives none, by estimate."""
    self.prompt_tokens += reply.prompt_tokens or sum(map(estimate, turns))
    self.reply_tokens += reply.reply_tokens or estimate({'content': reply.text})

  def say(self, kind: str, title: str, text: str = '') -> None:
    event = Event(round(self.seconds, 3), kind, title[:200], text)
    self.events.append(event)
    self._on_event(event)
