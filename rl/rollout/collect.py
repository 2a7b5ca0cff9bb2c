"""From queries to groups that are worth an update: prompts, a plan's trajectories, rewards, selection."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from core import mesh
from rl.policy import Policy, Prompt, Trajectory
from rl.query import Query
from rl.rewards import Length, Scorer, overlong
from rl.rollout.dynamic import Cursor, mixed
from rl.rollout.groups import Ask, Group, Plan, Select, everything
from rl.rollout.sampler import Sampler
from rl.tasks import HELDOUT_SEED, ROLLOUT_SEED, Task

DRAWS = 64  # prompts looked at for each one wanted, before a stream of prompts that are all too long is given up
Totals = dict[str, tuple[float, float]]  # metrics as sums and what they are divided by


@dataclasses.dataclass(frozen=True)
class QuerySource:
  """Where a run's queries come from, as prompts of its policy.

  limit: tokens of a prompt; longer ones are left out. only: the numbers to draw from, over and over; None: all.
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
    return [self.task.query('heldout', HELDOUT_SEED, i) for i in range(min(n, self.task.heldout))]

  def prompt(self, query: Query) -> Prompt:
    """The query as the policy reads it."""
    return self.policy.prompt(query.messages, query.images)

  def numbered(self, numbers: Sequence[int]) -> list[tuple[int, Query, Prompt]]:
    """(number, query, prompt) of each number."""
    found = []
    for number in numbers:
      chosen = number if self.only is None else self.only[number % len(self.only)]
      query = self.query(chosen)
      found.append((number, query, self.prompt(query)))
    return found

  def fitting(self, cursor: Cursor, count: int, home: mesh.Share) -> tuple[list[tuple[int, Query, Prompt]], int]:
    """(the next `count` whose prompts fit, how many did not). Raises ValueError when none of many fits."""
    found, looked = [], 0
    while len(found) < count and looked < DRAWS * count:
      missing = count - len(found)
      numbers = [_interleaved(n, home) for n in cursor.take(missing)]
      looked += missing
      for number, query, prompt in self.numbered(numbers):
        if len(prompt.tokens) <= self.limit:
          found.append((number, query, prompt))
    if len(found) < count:
      raise ValueError(f'{len(found)} of {looked} prompts have at most {self.limit} tokens; a rollout takes {count}')
    return found, looked - count


def _interleaved(n: int, home: mesh.Share) -> int:
  """Number n of this engine in the stream of all engines, so that their number does not change an update's queries."""
  sharing = len(mesh.processes(home.mesh))
  block, place = divmod(n, sharing)
  blocks_before = block * home.count + home.index
  return blocks_before * sharing + place


@dataclasses.dataclass(frozen=True)
class Collected:
  """What a rollout gives an update.

  groups: this process's. spare: another group, for its shapes, if a process has none. total: groups of all
  processes. metrics: single numbers. next: the cursor. lag: rollouts between the weights that sampled and the update.
  exhausted: all rounds of dynamic sampling were made, and no process has a group.
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

  rounds: more than 1 samples that often, at most, until as many groups are selected as were asked for. length, limit:
  what the length of a response costs, where it may have `limit` tokens.
  """

  scorer: Scorer
  prompts: int
  select: Select = everything
  rounds: int = 1
  length: Length | None = None
  limit: int = 0

  def __call__(self, sampler: Sampler, plan: Plan, source: QuerySource, *, step: int, start: int) -> Collected:
    """A rollout of the queries from number `start` on, a function of the weights, `step` and `start`.

    Several engines sample queries of their own; of the processes that share an engine each returns its part.
    """
    home, cursor = sampler.home, Cursor(start)
    share = self.prompts // home.count
    kept, sampled, notes, long = [], [], [], 0
    for _ in range(self.rounds):
      found, skipped = source.fitting(cursor, share, home)
      ask = Ask(step, start * home.count, *zip(*found))
      groups, names = self._scored(sampler, ask, plan(sampler, ask))
      chosen = self.select(ask, groups)
      kept += [group.only(places) for group, places in zip(groups, chosen.kept) if len(places)]
      sampled += groups
      long += skipped
      notes.append(chosen.metrics)
      if len(kept) >= share:
        break
    counts = _counts(sampled, long, len(mesh.processes(home.mesh)))
    if self.rounds > 1:
      counts |= {'dynamic_rounds': (len(notes), 1), 'dynamic_kept': (len(kept), len(sampled))}
    metrics = means(figures(sampled) | components(names, sampled) | _added(notes) | counts)
    own = _own(kept[:share], home)
    total = int(mesh.sum_over_processes(len(own)))
    exhausted = self.rounds > 1 and total == 0
    return Collected(own, sampled[0], total, metrics, cursor.at, exhausted=exhausted)

  def _scored(
    self, sampler: Sampler, ask: Ask, trajectories: Sequence[list[Trajectory]]
  ) -> tuple[list[Group], tuple[str, ...]]:
    """(groups with their rewards, names of the components).

    Each reward is computed by one process, and all that share an engine use the same.
    """
    home = sampler.home.mesh
    mine = mesh.process_local(range(len(trajectories)), home)
    own = [trajectories[n] for n in mine]
    scored = self.scorer([ask.queries[n] for n in mine], [[t.response for t in group] for group in own])
    if self.length is not None and self.length.buffer:
      lengths = np.array([[t.mask.sum() for t in group] for group in own])
      cost = overlong(lengths, self.limit, self.length.buffer, self.length.factor)
      scored = scored.add('length', cost)
    lost = np.zeros(scored.valid.shape, bool)
    for place in scored.lost:
      lost[place] = True
    right = scored.totals if scored.right is None else scored.right
    columns = mesh.gather((scored.rewards, scored.totals, right, scored.valid, lost), home)
    groups = []
    for number, query, group, *values in zip(ask.numbers, ask.queries, trajectories, *columns):
      groups.append(Group(number, query, list(group), scored.weights, *values))
    return groups, scored.names


def _own(groups: Sequence[Group], home: mesh.Share) -> Sequence[Group]:
  """The groups that this process trains on: processes that share an engine take turns."""
  sharing = mesh.processes(home.mesh)
  first = sharing.index(jax.process_index())
  return groups[first :: len(sharing)]


def _counts(groups: Sequence[Group], long: int, sharing: int) -> Totals:
  """Totals over all processes; the `sharing` processes of an engine all see the same groups and count them once."""
  tokens = sum(len(t.tokens) for group in groups for t in group.trajectories)
  processes = 1 / jax.process_count()
  once = 1 / sharing
  return {'tokens': (once * tokens, processes), 'prompts_too_long': (once * long, processes)}


def figures(groups: Sequence[Group]) -> Totals:
  """Metrics of what was sampled."""
  every = [t for group in groups for t in group.trajectories]
  valid, lost, totals, right = (
    np.concatenate([getattr(group, name) for group in groups]) for name in ('valid', 'lost', 'totals', 'right')
  )
  flat = sum(not mixed(group.totals, group.valid) for group in groups)
  tokens = sum(len(t.tokens) for t in every)
  cut = sum(not t.ended for t in every)
  return {
    'reward': (totals[valid].sum(dtype=np.float64), valid.sum()),
    'right': (right[valid].sum(dtype=np.float64), valid.sum()),
    'reward_flat_groups': (flat, len(groups)),
    'reward_lost': (lost.sum(), len(every)),
    'response_length': (tokens, len(every)),
    'response_cut': (cut, len(every)),
  }


def components(names: Sequence[str], groups: Sequence[Group]) -> Totals:
  """The mean of each reward component, unweighted, where there are several."""
  if len(names) == 1:
    return {}
  rewards = np.concatenate([group.rewards[group.valid] for group in groups])
  sums = rewards.sum(0, dtype=np.float64)
  return {f'reward/{name}': (total, len(rewards)) for name, total in zip(names, sums)}


def means(totals: Mapping[str, tuple[float, float]]) -> dict[str, np.ndarray]:
  """Metrics as float32, from each process's (total, divisor); 0 where there is nothing to divide by."""
  own = np.array(list(totals.values()), np.float64)
  total, divisor = mesh.sum_over_processes(own).T
  values = total / np.where(divisor, divisor, 1)
  return dict(zip(totals, np.float32(values)))


def _added(notes: Sequence[Totals]) -> Totals:
  """The sums of several rounds."""
  return {name: tuple(np.sum([note[name] for note in notes], 0)) for name in notes[0]}
