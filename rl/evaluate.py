"""Held-out accuracy with its interval, and pass@k of sampled responses.

Q queries   n responses to each
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from core.report.intervals import pass_at_k, wilson
from rl.query import Query
from rl.rewards import Scorer
from rl.rollout import Ask, Plan, Sampler
from rl.rollout.collect import Source


@dataclasses.dataclass(frozen=True)
class Result:
  """One response to each of `queries`, and what it is worth.

  right: 1 or 0 for each, or its reward where nothing says what is right (`measure` is then 'reward'). sampled: bool
  [Q, n], which of n further responses were right.
  """

  queries: Sequence[Query]
  responses: Sequence[Any]
  right: Sequence[float]
  sampled: np.ndarray | None = None
  measure: str = 'accuracy'

  @property
  def accuracy(self) -> float:
    """Share of right responses, or the mean reward."""
    return sum(self.right) / len(self.right)

  @property
  def interval(self) -> tuple[float, float]:
    """95 % interval of the accuracy (Wilson), or of the mean reward (normal)."""
    if self.measure == 'accuracy':
      return wilson(sum(self.right), len(self.right))
    half = 1.96 * float(np.std(self.right)) / len(self.right) ** 0.5
    return self.accuracy - half, self.accuracy + half

  def __str__(self) -> str:
    low, high = self.interval
    if self.measure == 'reward':
      return f'{self.accuracy:.3f} (95 % interval {low:.3f} to {high:.3f}, {len(self.right)} questions)'
    return (
      f'{100 * self.accuracy:.1f} % (95 % interval {100 * low:.1f} to {100 * high:.1f}, {len(self.right)} questions)'
    )

  def pass_at(self, k: int) -> float:
    """Mean chance that k of the sampled responses hold a right one. Raises ValueError unless 1 <= k <= n."""
    return float(np.mean([pass_at_k(self.sampled.shape[1], int(c), k) for c in self.sampled.sum(1)]))

  def summary(self) -> dict:
    """As JSON."""
    drawn = {} if self.sampled is None else {f'pass@{k}': self.pass_at(k) for k in sorted({1, self.sampled.shape[1]})}
    total = sum(self.right)
    counts = {'right': total} if self.measure == 'accuracy' else {}
    return {self.measure: self.accuracy, 'interval': list(self.interval), **counts, 'queries': len(self.right)} | drawn


@dataclasses.dataclass(frozen=True)
class Evaluation:
  """How held-out queries are answered: by the first response of `plan`, and by all of `more` for pass@k.

  queries: how many before and after. glance: how many of them while a run trains.
  """

  plan: Plan
  more: Plan | None = None
  queries: int = 1024
  glance: int = 256


def evaluate(
  sampler: Sampler, source: Source, scorer: Scorer, evaluation: Evaluation, n: int, *, sampled: bool = True
) -> Result:
  """Responses to the first n held-out queries; to a prompt over `source.limit` tokens there is none, which is wrong.

  sampled: whether `evaluation.more` is asked too. Raises ValueError when no prompt fits.
  """
  queries = source.heldout(n)
  prompts = [source.prompt(query) for query in queries]
  fitting = [i for i, x in enumerate(prompts) if len(x.tokens) <= source.limit]
  if not fitting:
    raise ValueError(f'none of {len(prompts)} held-out prompts has at most {source.limit} tokens')
  ask = Ask(0, 0, fitting, [queries[i] for i in fitting], [prompts[i] for i in fitting])
  said = [[group[0].response] for group in evaluation.plan(sampler, ask)]
  responses, right = [''] * len(queries), [False if scorer.knows_right else 0.0] * len(queries)
  for i, (response,), value in zip(fitting, said, _values(scorer, ask, said)[:, 0].tolist()):
    responses[i], right[i] = response, value
  drawn = None
  if sampled and evaluation.more is not None:
    values = _values(scorer, ask, [[t.response for t in group] for group in evaluation.more(sampler, ask)])
    drawn = np.zeros((len(queries), values.shape[1]), values.dtype)
    drawn[fitting] = values
  return Result(queries, responses, right, drawn, 'accuracy' if scorer.knows_right else 'reward')


def _values(scorer: Scorer, ask: Ask, said: Sequence[Sequence[Any]]) -> np.ndarray:
  """[Q, n]: which responses are right, or their rewards where nothing says what is right."""
  return scorer.right(ask.queries, said) if scorer.knows_right else scorer(ask.queries, said).totals
