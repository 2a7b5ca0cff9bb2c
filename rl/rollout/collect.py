"""From queries to groups that are worth an update: prompts, a plan's trajectories, rewards, selection."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from core import mesh
from rl.policy import Policy, Prompt, Trajectory
from rl.query import Query
from rl.rewards import Length, Scored, Scorer, overlong
from rl.rollout.dynamic import Cursor, mixed
from rl.rollout.groups import Ask, Group, Plan, Rollout, Select, Totals, everything
from rl.rollout.sampler import Sampler
from rl.tasks import HELDOUT_SEED, ROLLOUT_SEED, Task

DRAWS = 64  # prompts examined for each one needed, before a stream of prompts that are all too long is an error


@dataclasses.dataclass(frozen=True)
class QuerySource:
  """The source of a run's queries, as prompts of its policy.

  limit: tokens of a prompt; longer ones are skipped. only: the numbers to cycle through; None: all.
  """

  task: Task
  policy: Policy
  seed: int
  limit: int
  only: Sequence[int] | None = None

  def query(self, number: int, stream: int = ROLLOUT_SEED) -> Query:
    """One of an endless stream of training queries."""
    return self.task.query('train', self.seed * 16 + stream, number)

  def heldout(self, n: int) -> list[Query]:
    """The first n held-out queries, or all if there are fewer; the same for every seed."""
    count = min(n, self.task.heldout)
    return [self.task.query('heldout', HELDOUT_SEED, i) for i in range(count)]

  def prompt(self, query: Query) -> Prompt:
    """The query as the policy reads it."""
    return self.policy.prompt(query.messages, query.images)

  def numbered(self, numbers: Sequence[int]) -> list[tuple[int, Query, Prompt]]:
    """(number, query, prompt) of each number."""
    numbered = []
    for number in numbers:
      chosen = number
      if self.only is not None:
        chosen = self.only[number % len(self.only)]
      query = self.query(chosen)
      numbered.append((number, query, self.prompt(query)))
    return numbered

  def fitting(self, cursor: Cursor, count: int, home: mesh.Share) -> tuple[list[tuple[int, Query, Prompt]], int]:
    """(the next `count` whose prompts fit, how many did not). Raises ValueError if too few of many fit."""
    fitting = []
    examined = 0
    while len(fitting) < count and examined < DRAWS * count:
      missing = count - len(fitting)
      numbers = [_interleaved(n, home) for n in cursor.take(missing)]
      examined += missing
      for number, query, prompt in self.numbered(numbers):
        if len(prompt.tokens) <= self.limit:
          fitting.append((number, query, prompt))
    if len(fitting) < count:
      raise ValueError(
        f'{len(fitting)} of {examined} prompts have at most {self.limit} tokens; a rollout takes {count}'
      )
    return fitting, examined - count


def _interleaved(n: int, home: mesh.Share) -> int:
  """Number n of this engine in the stream of all engines, so that their number does not change an update's queries."""
  sharing = len(mesh.processes(home.mesh))
  block, place = divmod(n, sharing)
  blocks_before = block * home.count + home.index
  return blocks_before * sharing + place


@dataclasses.dataclass(frozen=True)
class Collected:
  """A rollout, as an update takes it.

  groups: this process's. spare: a group that gives the shapes if this process has none. total: groups of all
  processes. metrics: single numbers. next: the cursor. lag: rollouts between the weights that sampled and the update.
  exhausted: after all rounds of dynamic sampling no process has a group.
  """

  groups: list[Group]
  spare: Group
  total: int
  metrics: dict[str, Any]
  next: int
  lag: int = 0
  exhausted: bool = False


@dataclasses.dataclass(frozen=True)
class Collector:
  """Makes rollouts of `prompts` queries, of which each engine samples its share.

  rounds: the most rounds of sampling until `prompts` groups are selected. length, limit: the cost of a response's
  length, with at most `limit` tokens.
  """

  scorer: Scorer
  prompts: int
  select: Select = everything
  rounds: int = 1
  length: Length | None = None
  limit: int = 0

  def __call__(self, sampler: Sampler, plan: Plan, source: QuerySource, *, step: int, start: int) -> Collected:
    """A rollout of the queries from number `start` on, a function of the weights, `step` and `start`.

    Each engine samples other queries; the processes that share an engine divide its groups among them.
    """
    home = sampler.home
    cursor = Cursor(start)
    share = self.prompts // home.count
    kept = []
    sampled = []
    further = []
    notes = []
    too_long = 0
    for _ in range(self.rounds):
      fitting, skipped = source.fitting(cursor, share, home)
      grade = functools.partial(self._scored, home.mesh)
      ask = Ask(step, start * home.count, *zip(*fitting), grade=grade)
      rollout = self._rewarded(ask, plan(sampler, ask))
      kept += rollout.kept
      sampled += rollout.asked
      further += rollout.further
      too_long += skipped
      notes.append(rollout.metrics)
      if len(kept) >= share:
        break
    if self.rounds > 1:
      kept = kept[:share]
    counts = _counts([*sampled, *further], too_long, len(mesh.processes(home.mesh)))
    if self.rounds > 1:
      counts |= {'dynamic_rounds': (len(notes), 1), 'dynamic_kept': (len(kept), len(sampled))}
    metrics = means(figures(sampled) | components(sampled) | _added(notes) | counts)
    local = _process_local(kept, home)
    total = int(mesh.sum_over_processes(len(local)))
    return Collected(
      groups=local,
      spare=sampled[0],
      total=total,
      metrics=metrics,
      next=cursor.at,
      exhausted=self.rounds > 1 and total == 0,
    )

  def _rewarded(self, ask: Ask, planned: Sequence[list[Trajectory]] | Rollout) -> Rollout:
    """What a plan returned, with rewards and the selection of what is trained on."""
    if isinstance(planned, Rollout):
      return planned
    groups = ask.grade(ask.queries, planned, ask.numbers)
    selection = self.select(ask, groups)
    return Rollout(groups, [], _selected(groups, selection.kept), selection.metrics)

  def _scored(
    self,
    home: mesh.Mesh,
    queries: Sequence[Query],
    trajectories: Sequence[list[Trajectory]],
    numbers: Sequence[int],
  ) -> list[Group]:
    """The groups with their rewards, as of `rl.rollout.groups.Grade`.

    Each reward is computed by one process and shared by all processes of the engine.
    """
    if not trajectories:
      return []
    # The last ones again, so that every process of the engine has as many to score.
    missing = -len(trajectories) % len(mesh.processes(home))
    pairs = list(zip(queries, trajectories))
    padded = pairs + pairs[-1:] * missing
    scored = self._local_scores(home, *zip(*padded))
    lost = np.zeros(scored.valid.shape, bool)
    for place in scored.lost:
      lost[place] = True
    right = scored.totals if scored.right is None else scored.right
    columns = mesh.gather((scored.rewards, scored.totals, right, scored.valid, lost), home)
    groups = []
    for number, query, group, *values in zip(numbers, queries, trajectories, *columns):
      groups.append(Group(number, query, list(group), scored.weights, *values, names=scored.names))
    return groups

  def _local_scores(
    self, home: mesh.Mesh, queries: Sequence[Query], trajectories: Sequence[list[Trajectory]]
  ) -> Scored:
    """The rewards of this process's share of the groups."""
    places = mesh.process_local(range(len(trajectories)), home)
    local = [trajectories[n] for n in places]
    responses = [[t.response for t in group] for group in local]
    scored = self.scorer([queries[n] for n in places], responses)
    if self.length is None or not self.length.buffer:
      return scored
    lengths = np.array([[t.mask.sum() for t in group] for group in local])
    cost = overlong(lengths, self.limit, self.length.buffer, self.length.factor)
    return scored.add('length', cost)


def _selected(groups: Sequence[Group], kept: Sequence[Sequence[int]]) -> list[Group]:
  """Each group with only its kept samples; groups without any are dropped."""
  return [group.only(places) for group, places in zip(groups, kept) if len(places)]


def _process_local(groups: Sequence[Group], home: mesh.Share) -> Sequence[Group]:
  """The groups that this process trains on; the processes of an engine take them in turn."""
  sharing = mesh.processes(home.mesh)
  first = sharing.index(jax.process_index())
  return groups[first :: len(sharing)]


def _counts(groups: Sequence[Group], too_long: int, sharing: int) -> Totals:
  """Totals over all processes; the `sharing` processes of an engine see the same groups and count them once."""
  tokens = sum(len(t.tokens) for group in groups for t in group.trajectories)
  processes = 1 / jax.process_count()
  once = 1 / sharing
  return {'tokens': (once * tokens, processes), 'prompts_too_long': (once * too_long, processes)}


def figures(groups: Sequence[Group]) -> Totals:
  """Metrics of the sampled groups."""
  trajectories = [t for group in groups for t in group.trajectories]
  count = len(trajectories)
  valid = np.concatenate([group.valid for group in groups])
  lost = np.concatenate([group.lost for group in groups])
  totals = np.concatenate([group.totals for group in groups])
  right = np.concatenate([group.right for group in groups])
  flat = sum(not mixed(group.totals, group.valid) for group in groups)
  tokens = sum(len(t.tokens) for t in trajectories)
  cut = sum(not t.ended for t in trajectories)
  return {
    'reward': (totals[valid].sum(dtype=np.float64), valid.sum()),
    'right': (right[valid].sum(dtype=np.float64), valid.sum()),
    'reward_flat_groups': (flat, len(groups)),
    'reward_lost': (lost.sum(), count),
    'response_length': (tokens, count),
    'response_cut': (cut, count),
  }


def components(groups: Sequence[Group]) -> Totals:
  """The unweighted mean of each reward component; nothing if there is only one."""
  names = groups[0].names
  if len(names) == 1:
    return {}
  rewards = np.concatenate([group.rewards[group.valid] for group in groups])
  sums = rewards.sum(0, dtype=np.float64)
  return {f'reward/{name}': (total, len(rewards)) for name, total in zip(names, sums)}


def means(totals: Mapping[str, tuple[float, float]]) -> dict[str, np.ndarray]:
  """Metrics as float32, from each process's (total, divisor); 0 where the divisors sum to 0."""
  local = np.array(list(totals.values()), np.float64)
  total, divisor = mesh.sum_over_processes(local).T
  values = total / np.where(divisor, divisor, 1)
  return dict(zip(totals, np.float32(values)))


def _added(notes: Sequence[Totals]) -> Totals:
  """The sums of several rounds."""
  added = {}
  for name in notes[0]:
    column = [note[name] for note in notes]
    added[name] = tuple(np.sum(column, 0))
  return added
