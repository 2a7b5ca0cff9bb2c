"""Held-out accuracy with its interval."""

import dataclasses
from collections.abc import Callable, Sequence

from core.intervals import wilson
from core.sample import Sampling
from rl import policy
from rl.rewards import exact_match
from rl.tasks import Query

BATCH = 256


@dataclasses.dataclass(frozen=True)
class Result:
  """Answers to `queries` and which were right."""

  queries: Sequence[Query]
  answers: list[str]
  right: list[bool]

  @property
  def accuracy(self) -> float:
    """Share of right answers."""
    return sum(self.right) / len(self.right)

  @property
  def interval(self) -> tuple[float, float]:
    """95 % Wilson interval of the accuracy."""
    return wilson(sum(self.right), len(self.right))

  def summary(self) -> dict:
    """As JSON."""
    return {'accuracy': self.accuracy, 'interval': list(self.interval), 'right': sum(self.right),
            'queries': len(self.right)}


def evaluate(params, config, processor, queries: Sequence[Query], *, max_new: int, length: int,
             right: Callable[[str, str], float] = exact_match) -> Result:
  """Greedy answers to all queries; `length` as in `policy.collate`, right(answer, reference) 1 for a right one."""
  answers = []
  for start in range(0, len(queries), BATCH):
    batch = queries[start:start + BATCH]
    padded = list(batch) + [batch[-1]] * (min(BATCH, len(queries)) - len(batch))  # the last batch keeps its shape
    prompts = policy.collate([processor(q.messages, q.images) for q in padded], pad_id=processor.pad_id, length=length)
    sampled = policy.answer(params, config, prompts, max_new=max_new, stop=processor.stop_id,
                            sampling=Sampling.of(len(padded)))
    answers += policy.texts(processor, sampled)[:len(batch)]
  return Result(queries, answers, [bool(right(a, q.answer)) for a, q in zip(answers, queries)])
