"""The rollout plan of tool use: conversations with tool calls, of which GRPO-RoC chooses those to train on."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from agents.rollout import roc
from agents.rollout.grade import answer
from agents.rollout.loop import rollout
from agents.rollout.protocol import Protocol
from agents.rollout.tools import Runner
from agents.rollout.trajectory import Bounds, Conversation, Trace, figures
from rl.policy import Draw, Trajectory
from rl.rollout import Ask, Sampler, Selected
from rl.rollout.groups import Group

LOST = 0.5  # share of calls that may fail because a tool is missing; learning from more would unlearn its use


@dataclasses.dataclass(frozen=True)
class ToolPlan:
  """`samples` conversations about each problem, within `bounds`.

  draw: how a turn is sampled. seed, stream: name its random numbers, which depend on them, the step and the place in
  the rollout alone. lag: see `agents.rollout.loop.rollout`.
  """

  protocol: Protocol
  runner: Runner
  bounds: Bounds
  draw: Draw
  samples: int
  seed: int
  stream: int
  lag: int | None

  def seeds(self, ask: Ask) -> list[int]:
    """Of each conversation, prompt by prompt."""
    places = np.array(ask.numbers) - ask.first
    draw = np.random.default_rng([self.seed, self.stream, ask.step])
    drawn = draw.integers(0, 2**31, (int(places.max()) + 1) * self.samples)
    return drawn.reshape(-1, self.samples)[places].ravel().tolist()

  def __call__(self, sampler: Sampler, ask: Ask) -> list[list[Trajectory]]:
    """As of `rl.rollout.Plan`. Raises ConnectionError when the tools are gone."""
    prompts = [prompt for prompt in ask.prompts for _ in range(self.samples)]
    conversations = rollout(
      [sampler.engine],
      [prompt.tokens.tolist() for prompt in prompts],
      self.seeds(ask),
      protocol=self.protocol,
      runner=self.runner,
      bounds=self.bounds,
      draw=self.draw,
      lag=self.lag,
    )
    check_tools(conversations)
    found = [as_trajectory(c, prompt) for c, prompt in zip(conversations, prompts)]
    return [found[start : start + self.samples] for start in range(0, len(found), self.samples)]


def check_tools(traces: Sequence[Trace]) -> None:
  """Raises ConnectionError when more than half of the calls were lost with the tools themselves."""
  calls = [r for t in traces for r in t.responses]
  lost = [r for r in calls if r.status == 'harness']
  if len(lost) > LOST * len(calls):
    raise ConnectionError(
      f'{len(lost)} of {len(calls)} tool calls of a rollout were lost; '
      'the same command continues from the last checkpoint'
    )


def as_trajectory(c: Conversation, prompt) -> Trajectory:
  """A conversation as learning sees it; rewards are given its text."""
  return Trajectory(
    prompt,
    np.array(c.ids, np.int32),
    np.array(c.mask, bool),
    np.array(c.logp, np.float32),
    ended=c.stop == 'final',
    response=Trace(c.turns, c.stop),
  )


def said(response: Trace | str) -> str:
  """The answer of a conversation, or nothing; a query that was not asked has an empty text."""
  if isinstance(response, str):
    return response
  return answer(response) or ''


@dataclasses.dataclass(frozen=True)
class Resample:
  """GRPO-RoC's choice of what is trained on, as `rl.rollout.groups.Select`; mode and keep: see `roc.select`."""

  mode: roc.Mode
  keep: int
  seed: int

  def __call__(self, ask: Ask, groups: Sequence[Group]) -> Selected:
    """The survivors of each group, none of one whose rewards are all equal."""
    traces = [[t.response for t in group.trajectories] for group in groups]
    rewards = np.stack([group.totals for group in groups])
    places = [group.number - ask.first for group in groups]
    chosen = roc.resample(traces, rewards, self.keep, seed=self.seed, step=ask.step, places=places, mode=self.mode)
    everyone = [t for group in traces for t in group]
    good = [t for group, row in zip(traces, rewards) for t, r in zip(group, row) if r]
    kept = [traces[g][k] for g, ks in enumerate(chosen.kept) for k in ks if rewards[g][k]]
    failed = {'right_calls_failed': _failed(good), 'kept_right_calls_failed': _failed(kept)}
    return Selected(chosen.kept, failed | figures(everyone) | chosen.metrics)


def _failed(traces: Sequence[Trace]) -> tuple[float, float]:
  return figures(traces)['calls_failed']
