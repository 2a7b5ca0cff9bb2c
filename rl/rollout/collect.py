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
class Source:
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
    """The first n held-out queries, or all if there are fewer; the same whatever the seed."""
    return [self.task.query('heldout', HELDOUT_SEED, i) for i in range(min(n, self.task.heldout))]

  def prompt(self, query: Query) -> Prompt:
    """The query as the policy reads it."""
    return self.policy.prompt(query.messages, query.images)

  def numbered(self, numbers: Sequence[int]) -> list[tuple[int, Query, Prompt]]:
    """(number, query, prompt) of each number."""
    queries = [self.query(n if self.only is None else self.only[n % len(self.only)]) for n in numbers]
    return [(n, query, self.prompt(query)) for n, query in zip(numbers, queries)]

  def fitting(self, cursor: Cursor, count: int, home: mesh.Share) -> tuple[list[tuple[int, Query, Prompt]], int]:
    """(the next `count` whose prompts fit, how many did not). Raises ValueError when none of many fits."""
    found, looked = [], 0
    while len(found) < count and looked < DRAWS * count:
      drawn = self.numbered([_dealt(n, home) for n in cursor.take(count - len(found))])
      looked += len(drawn)
      found += [one for one in drawn if len(one[2].tokens) <= self.limit]
    if len(found) < count:
      raise ValueError(f'{len(found)} of {looked} prompts have at most {self.limit} tokens; a rollout takes {count}')
    return found, looked - count


def _dealt(n: int, home: mesh.Share) -> int:
  """Number n of this engine in the stream of all: an update is of the same queries whatever the number of engines."""
  among = len(mesh.processes(home.mesh))
  return (n // among * home.count + home.index) * among + n % among


@dataclasses.dataclass(frozen=True)
class Collected:
  """What a rollout gives an update.

  groups: this process's. spare: another group, whose shapes stand in where a process has none. total: groups of all
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

  def __call__(self, sampler: Sampler, plan: Plan, source: Source, *, step: int, start: int) -> Collected:
    """A rollout of the queries from number `start` on, a function of the weights, `step` and `start`.

    Several engines sample queries of their own; of the processes that share an engine each returns its part.
    """
    home, cursor, share = sampler.home, Cursor(start), self.prompts // sampler.home.count
    kept, sampled, notes, long = [], [], [], 0
    for _ in range(self.rounds):
      found, skipped = source.fitting(cursor, share, home)
      ask = Ask(step, start * home.count, *zip(*found))
      groups, names = self._scored(sampler, ask, plan(sampler, ask))
      chosen = self.select(ask, groups)
      kept += [group.only(places) for group, places in zip(groups, chosen.kept) if len(places)]
      sampled, long = sampled + groups, long + skipped
      notes.append(chosen.metrics)
      if len(kept) >= share:
        break
    among = mesh.processes(home.mesh)
    own = kept[:share][among.index(jax.process_index()) :: len(among)]
    once = 1 / len(among)  # of what processes that share an engine all count
    counts = {
      'tokens': (once * sum(len(t.tokens) for group in sampled for t in group.trajectories), 1 / jax.process_count()),
      'prompts_too_long': (once * long, 1 / jax.process_count()),
    }
    if self.rounds > 1:
      counts |= {'dynamic_rounds': (len(notes), 1), 'dynamic_kept': (len(kept), len(sampled))}
    metrics = means(figures(sampled) | components(names, sampled) | _added(notes) | counts)
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
    scored = self.scorer([ask.queries[n] for n in mine], [[t.response for t in trajectories[n]] for n in mine])
    if self.length is not None and self.length.buffer:
      lengths = np.array([[t.mask.sum() for t in trajectories[n]] for n in mine])
      scored = scored.add('length', overlong(lengths, self.limit, self.length.buffer, self.length.factor))
    lost = np.zeros(scored.valid.shape, bool)
    for place in scored.lost:
      lost[place] = True
    right = scored.totals if scored.right is None else scored.right
    columns = mesh.gather((scored.rewards, scored.totals, right, scored.valid, lost), home)
    rows = zip(ask.numbers, ask.queries, trajectories, *columns)
    groups = [Group(number, query, list(group), scored.weights, *values) for number, query, group, *values in rows]
    return groups, scored.names


def figures(groups: Sequence[Group]) -> Totals:
  """Metrics of what was sampled."""
  every = [t for group in groups for t in group.trajectories]
  join = lambda name: np.concatenate([getattr(group, name) for group in groups])
  valid = join('valid')
  flat = [not mixed(group.totals, group.valid) for group in groups]
  return {
    'reward': (join('totals')[valid].sum(dtype=np.float64), valid.sum()),
    'right': (join('right')[valid].sum(dtype=np.float64), valid.sum()),
    'reward_flat_groups': (sum(flat), len(groups)),
    'reward_lost': (join('lost').sum(), len(every)),
    'response_length': (sum(len(t.tokens) for t in every), len(every)),
    'response_cut': (sum(not t.ended for t in every), len(every)),
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
  total, divisor = mesh.sum_over_processes(np.array(list(totals.values()), np.float64)).T
  return dict(zip(totals, np.float32(total / np.where(divisor, divisor, 1))))


def _added(notes: Sequence[Totals]) -> Totals:
  """The sums of several rounds."""
  return {name: tuple(np.sum([note[name] for note in notes], 0)) for name in notes[0]}
