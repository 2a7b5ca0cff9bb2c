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
from rl.rollout.collect import QuerySource


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
    n = len(self.right)
    if self.measure == 'reward':
      return f'{self.accuracy:.3f} (95 % interval {low:.3f} to {high:.3f}, {n} questions)'
    percent = 100 * self.accuracy
    return f'{percent:.1f} % (95 % interval {100 * low:.1f} to {100 * high:.1f}, {n} questions)'

  def pass_at(self, k: int) -> float:
    """Mean chance that k of the sampled responses hold a right one. Raises ValueError unless 1 <= k <= n."""
    _, n = self.sampled.shape
    chances = [pass_at_k(n, int(correct), k) for correct in self.sampled.sum(1)]
    return float(np.mean(chances))

  def summary(self) -> dict:
    """As JSON."""
    found = {self.measure: self.accuracy, 'interval': list(self.interval)}
    if self.measure == 'accuracy':
      found['right'] = sum(self.right)
    found['queries'] = len(self.right)
    if self.sampled is not None:
      for k in sorted({1, self.sampled.shape[1]}):
        found[f'pass@{k}'] = self.pass_at(k)
    return found


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
  sampler: Sampler, source: QuerySource, scorer: Scorer, evaluation: Evaluation, n: int, *, sampled: bool = True
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
  responses = [''] * len(queries)
  for i, (response,) in zip(fitting, said):
    responses[i] = response
  right = _spread(_values(scorer, ask, said), fitting, len(queries))[:, 0].tolist()
  drawn = None
  if sampled and evaluation.more is not None:
    more = [[t.response for t in group] for group in evaluation.more(sampler, ask)]
    drawn = _spread(_values(scorer, ask, more), fitting, len(queries))
  measure = 'accuracy' if scorer.knows_right else 'reward'
  return Result(queries, responses, right, drawn, measure)


def _spread(values: np.ndarray, at: Sequence[int], n: int) -> np.ndarray:
  """[n, …]: the values in these rows, and 0 in the others."""
  out = np.zeros((n, *values.shape[1:]), values.dtype)
  out[at] = values
  return out


def _values(scorer: Scorer, ask: Ask, said: Sequence[Sequence[Any]]) -> np.ndarray:
  """[Q, n]: which responses are right, or their rewards where nothing says what is right."""
  return scorer.right(ask.queries, said) if scorer.knows_right else scorer(ask.queries, said).totals
