"""One conversation with tools, as text for grading and as token ids for training."""

import dataclasses
from collections.abc import Sequence

from agents.rollout.protocol import Protocol
from agents.rollout.tools import Response
from core.conversations.tool_calls import Call, parse
from core.launch.fields import field

# Why a trajectory ended. 'final': a turn without calls. 'length': the response budget. 'turns', 'user_turns': their
# limits, the last turn's calls not executed. 'tool_overflow': a response that would not have fitted. 'request_failed':
# the endpoint gave up.
STOPS = ('final', 'length', 'turns', 'user_turns', 'tool_overflow', 'request_failed')


@dataclasses.dataclass(frozen=True)
class Bounds:
  """How long a trajectory may get."""

  response: int = field(8192, 'tokens after the prompt, tool output included')
  turns: int = field(10, 'assistant turns; the calls of the last one are not executed')
  user_turns: int | None = field(None, 'tool turns; none: no limit')
  calls: int = field(1, 'tool calls of one turn; further ones are dropped')

  def __post_init__(self):
    for name in ('response', 'turns', 'calls'):
      if getattr(self, name) < 1:
        raise ValueError(f'{name}={getattr(self, name)}: expected 1 or more')
    if self.user_turns is not None and self.user_turns < 0:
      raise ValueError(f'user_turns={self.user_turns}: expected 0 or more, or none')


@dataclasses.dataclass(frozen=True)
class Turn:
  """What the model said in one turn, and the tools' responses to it."""

  text: str
  responses: tuple[Response, ...] = ()


@dataclasses.dataclass
class Trace:
  """A conversation as text. stop: why it ended, of STOPS."""

  turns: list[Turn] = dataclasses.field(default_factory=list)
  stop: str = ''

  @property
  def responses(self) -> list[Response]:
    """Of all attempted calls, in order."""
    return [r for turn in self.turns for r in turn.responses]

  def respond(self, responses: Sequence[Response]) -> None:
    """Notes the responses to the last turn."""
    self.turns[-1] = dataclasses.replace(self.turns[-1], responses=tuple(responses))


@dataclasses.dataclass
class Conversation(Trace):
  """A conversation as sampled: `ids` follow `prompt`, `mask` is true on the model's tokens, `logp` is 0 on others."""

  prompt: list[int] = dataclasses.field(default_factory=list)
  seed: int = 0
  ids: list[int] = dataclasses.field(default_factory=list)
  mask: list[bool] = dataclasses.field(default_factory=list)
  logp: list[float] = dataclasses.field(default_factory=list)

  def left(self, bounds: Bounds) -> int:
    """Response tokens still to be had."""
    return bounds.response - len(self.ids)

  def hear(self, ids: Sequence[int], logp: Sequence[float], protocol: Protocol, bounds: Bounds) -> list[Call]:
    """Notes an assistant turn, exactly as sampled; the calls to carry out, or none when the trajectory has ended."""
    ids = [int(i) for i in ids]
    self._add(ids, True, [float(x) for x in logp])
    self.turns.append(Turn(protocol.said(ids)))
    if self.left(bounds) <= 0:
      self.stop = 'length'
    elif len(self.turns) >= bounds.turns:
      self.stop = 'turns'
    elif bounds.user_turns is not None and len(self.turns) > bounds.user_turns:
      self.stop = 'user_turns'
    calls = []
    if not self.stop:
      calls = parse(protocol.text(ids), bounds.calls)
    if not calls and not self.stop:
      self.stop = 'final'
    return calls

  def take(self, responses: Sequence[Response], protocol: Protocol, bounds: Bounds) -> None:
    """Appends the tool turn, or ends the trajectory before one that would not fit: none ends on a tool turn."""
    self.respond(responses)
    ids = protocol.tool_turn([r.text for r in responses])
    if len(ids) >= self.left(bounds):
      self.stop = 'tool_overflow'
    else:
      self._add(ids, False, [0.0] * len(ids))

  def _add(self, ids, mine, logp):
    self.ids += ids
    self.mask += [mine] * len(ids)
    self.logp += logp


def figures(traces: Sequence[Trace]) -> dict[str, tuple[float, float]]:
  """Metrics of many traces, each as (total, what it is divided by): turns and calls of a trace, shares of stop reasons,
  of failed calls and of harness faults."""
  responses = [r for t in traces for r in t.responses]
  stops = {
    f'stop_{reason}': (sum(t.stop == reason for t in traces), len(traces))
    for reason in STOPS
    if reason != 'request_failed'
  }
  return stops | {
    'turns': (sum(len(t.turns) for t in traces), len(traces)),
    'calls': (len(responses), len(traces)),
    'calls_failed': (sum(r.failed for r in responses), len(responses)),
    'calls_harness': (sum(r.status == 'harness' for r in responses), len(responses)),
    'calls_cut': (sum(r.omitted > 0 for r in responses), len(responses)),
  }
