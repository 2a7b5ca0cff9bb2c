"""Held-out accuracy with its interval, and pass@k of sampled responses.

Q queries   n responses to each
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from core.report.intervals import pass_at_k, wilson
from rl.query import Query
from rl.rewards import Scorer
from rl.rollout import Ask, Plan, Sampler
from rl.rollout.collect import QuerySource


@dataclasses.dataclass(frozen=True)
class Result:
  """One response to each of `queries`, and its value.

  right: 1 or 0 for each, or its reward if nothing judges correctness (`measure` is then 'reward'). sampled: bool
  [Q, n], which of n further responses are right.
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
    standard_error = float(np.std(self.right)) / len(self.right) ** 0.5
    half = 1.96 * standard_error
    return self.accuracy - half, self.accuracy + half

  def __str__(self) -> str:
    low, high = self.interval
    n = len(self.right)
    if self.measure == 'reward':
      return f'{self.accuracy:.3f} (95 % interval {low:.3f} to {high:.3f}, {n} questions)'
    percent = 100 * self.accuracy
    return f'{percent:.1f} % (95 % interval {100 * low:.1f} to {100 * high:.1f}, {n} questions)'

  def pass_at(self, k: int) -> float:
    """Mean probability that k of the sampled responses include a right one. Raises ValueError unless 1 <= k <= n."""
    _, n = self.sampled.shape
    chances = [pass_at_k(n, int(correct), k) for correct in self.sampled.sum(1)]
    return float(np.mean(chances))

  def summary(self) -> dict:
    """As JSON."""
    summary = {self.measure: self.accuracy, 'interval': list(self.interval)}
    if self.measure == 'accuracy':
      summary['right'] = sum(self.right)
    summary['queries'] = len(self.right)
    if self.sampled is not None:
      for k in sorted({1, self.sampled.shape[1]}):
        summary[f'pass@{k}'] = self.pass_at(k)
    return summary


def _nothing(result: Result) -> Mapping[str, float]:
  return {}


@dataclasses.dataclass(frozen=True)
class Evaluation:
  """How held-out queries are answered: by the first response of `plan`, and by all of `more` for pass@k.

  queries: their number before and after training. glance: their number during training. further(result): metrics in
  addition to the accuracy, during training.
  """

  plan: Plan
  more: Plan | None = None
  queries: int = 1024
  glance: int = 256
  further: Callable[[Result], Mapping[str, float]] = _nothing


def evaluate(
  sampler: Sampler, source: QuerySource, scorer: Scorer, evaluation: Evaluation, n: int, *, sampled: bool = True
) -> Result:
  """Responses to the first n held-out queries; a prompt over `source.limit` tokens gets none, which counts as wrong.

  sampled: whether `evaluation.more` is also sampled. Raises ValueError if no prompt fits.
  """
  queries = source.heldout(n)
  prompts = [source.prompt(query) for query in queries]
  fitting = [i for i, prompt in enumerate(prompts) if len(prompt.tokens) <= source.limit]
  if not fitting:
    raise ValueError(f'none of {len(prompts)} held-out prompts has at most {source.limit} tokens')
  ask = Ask(0, 0, fitting, [queries[i] for i in fitting], [prompts[i] for i in fitting])
  first = [group[0].response for group in evaluation.plan(sampler, ask)]
  responses = [''] * len(queries)
  for i, response in zip(fitting, first):
    responses[i] = response
  values = _values(scorer, ask, [[response] for response in first])
  drawn = None
  if sampled and evaluation.more is not None:
    more = [[t.response for t in group] for group in evaluation.more(sampler, ask)]
    drawn = _spread(_values(scorer, ask, more), fitting, len(queries))
  return Result(
    queries=queries,
    responses=responses,
    right=_spread(values, fitting, len(queries))[:, 0].tolist(),
    sampled=drawn,
    measure='accuracy' if scorer.knows_right else 'reward',
  )


def _spread(values: np.ndarray, at: Sequence[int], n: int) -> np.ndarray:
  """[n, …]: the values in these rows, and 0 in the others."""
  out = np.zeros((n, *values.shape[1:]), values.dtype)
  out[at] = values
  return out


def _values(scorer: Scorer, ask: Ask, said: Sequence[Sequence[Any]]) -> np.ndarray:
  """[Q, n]: which responses are right, or their rewards if nothing judges correctness."""
  if scorer.knows_right:
    return scorer.right(ask.queries, said)
  return scorer(ask.queries, said).totals
