"""Held-out accuracy with its interval, and pass@k of sampled answers.

Q queries   n answers to each
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from core.report.intervals import pass_at_k, wilson
from internvl import Processor
from rl import policy
from rl.rewards import exact_match
from rl.sampler import Sampler
from rl.tasks import Query


@dataclasses.dataclass(frozen=True)
class Result:
  """Greedy answers to `queries` and which were right; sampled: bool [Q, n], which of n drawn answers were."""

  queries: Sequence[Query]
  answers: list[str]
  right: list[bool]
  sampled: np.ndarray | None = None

  @property
  def accuracy(self) -> float:
    """Share of right answers."""
    return sum(self.right) / len(self.right)

  @property
  def interval(self) -> tuple[float, float]:
    """95 % Wilson interval of the accuracy."""
    return wilson(sum(self.right), len(self.right))

  def __str__(self) -> str:
    low, high = self.interval
    return (
      f'{100 * self.accuracy:.1f} % (95 % interval {100 * low:.1f} to {100 * high:.1f}, {len(self.right)} questions)'
    )

  def pass_at(self, k: int) -> float:
    """Mean chance that k of the drawn answers hold a right one. Raises ValueError unless 1 <= k <= n."""
    return float(np.mean([pass_at_k(self.sampled.shape[1], int(c), k) for c in self.sampled.sum(1)]))

  def summary(self) -> dict:
    """As JSON."""
    drawn = {} if self.sampled is None else {f'pass@{k}': self.pass_at(k) for k in sorted({1, self.sampled.shape[1]})}
    return {
      'accuracy': self.accuracy,
      'interval': list(self.interval),
      'right': sum(self.right),
      'queries': len(self.right),
    } | drawn


def evaluate(
  sampler: Sampler,
  processor: Processor,
  queries: Sequence[Query],
  *,
  max_new: int,
  right: Callable[[str, str], float] = exact_match,
  samples: int = 0,
  temperature: float = 1.0,
) -> Result:
  """A greedy answer to every query, and `samples` drawn ones; right(answer, reference) is 1 for a right one."""
  prompts = [processor(q.messages, q.images) for q in queries]
  check = lambda texts, times: [bool(right(a, queries[i // times].answer)) for i, a in enumerate(texts)]
  answers = policy.texts(processor, sampler(prompts, max_new=max_new))
  verdict, sampled = check(answers, 1), None
  if samples:
    drawn = sampler(prompts, max_new=max_new, samples=samples, temperature=temperature)
    sampled = np.array(check(policy.texts(processor, drawn), samples)).reshape(len(queries), samples)
  return Result(queries, answers, verdict, sampled)
