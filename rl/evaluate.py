"""Held-out accuracy with its interval, and pass@k of sampled answers.

Q queries   n answers to each
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from core.intervals import pass_at_k, wilson
from internvl import Processor
from rl import policy
from rl.rewards import exact_match
from rl.sampler import Sampler
from rl.tasks import Query


@dataclasses.dataclass(frozen=True)
class Result:
  """Answers to `queries`, the greedy one first, and which were right, bool [Q, 1 + n]."""

  queries: Sequence[Query]
  answers: list[list[str]]
  right: np.ndarray

  @property
  def accuracy(self) -> float:
    """Share of right greedy answers."""
    return float(self.right[:, 0].mean())

  @property
  def interval(self) -> tuple[float, float]:
    """95 % Wilson interval of the accuracy."""
    return wilson(int(self.right[:, 0].sum()), len(self.right))

  def pass_at(self, k: int) -> float:
    """Mean chance that k of the sampled answers hold a right one. Raises ValueError unless 1 <= k <= n."""
    sampled = self.right[:, 1:]
    return float(np.mean([pass_at_k(sampled.shape[1], int(c), k) for c in sampled.sum(1)]))

  def summary(self) -> dict:
    """As JSON."""
    samples = self.right.shape[1] - 1
    return {'accuracy': self.accuracy, 'interval': list(self.interval), 'right': int(self.right[:, 0].sum()),
            'queries': len(self.right)} | {f'pass@{k}': self.pass_at(k) for k in sorted({1, samples}) if samples}


def evaluate(sampler: Sampler, processor: Processor, queries: Sequence[Query], *, max_new: int,
             right: Callable[[str, str], float] = exact_match, samples: int = 0, temperature: float = 1.0) -> Result:
  """A greedy answer to every query and `samples` drawn ones; right(answer, reference) is 1 for a right one."""
  prompts = [processor(q.messages, q.images) for q in queries]
  parts = [sampler(prompts, max_new=max_new)]
  if samples:
    parts.append(sampler(prompts, max_new=max_new, samples=samples, temperature=temperature))
  columns = [np.array(policy.texts(processor, a), object).reshape(len(queries), -1) for a in parts]
  answers = np.concatenate(columns, 1).tolist()
  verdict = [[bool(right(a, q.answer)) for a in row] for row, q in zip(answers, queries)]
  return Result(queries, answers, np.array(verdict))
