"""One idea for every benchmark: examples, a prompt, a score for each answer, numbers over all of them.

A number over a benchmark is a ratio of sums. An accuracy is right answers over answers; a corpus word error
rate is edits over reference words; a pooled dimension of UniGenBench is fulfilled checkpoints over
checkpoints. So a score is a pair (numerator, denominator), and one estimator, one bootstrap and one
comparison serve every task.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from core.serving import client as endpoint

Scores = Mapping[str, tuple[float, float]]
"""Metric name → (numerator, denominator)."""

OK = 'ok'
NO_ANSWER = 'no_answer'
CUT_OFF = 'cut_off'
REQUEST_FAILED = 'request_failed'


@dataclasses.dataclass(frozen=True)
class Problem:
  """Something wrong with one row of a file: where, and what."""

  where: str
  reason: str


@dataclasses.dataclass(frozen=True)
class Example:
  """One question. `fields` is what the task's prompt and score read.

  `cluster` names the unit that is resampled.
  """

  id: str
  fields: Mapping[str, Any]
  groups: Mapping[str, str] = dataclasses.field(default_factory=dict)
  cluster: str = ''

  @property
  def unit(self) -> str:
    return self.cluster or self.id


@dataclasses.dataclass(frozen=True)
class Data:
  """The examples of a benchmark in file order, and an account of every row that was read."""

  examples: tuple[Example, ...]
  read: int
  files: Mapping[str, str]
  skipped: tuple[Problem, ...] = ()
  repaired: tuple[Problem, ...] = ()


@dataclasses.dataclass(frozen=True)
class Sampling(endpoint.Sampling):
  """How answers are drawn. `samples` is the number of answers to each question."""

  samples: int = 1


@dataclasses.dataclass(frozen=True)
class Answer:
  """One model output. `finish` is "stop", "length" (cut off) or "failed"; `reward` ranks it for best-of-N.

  reasoning: thoughts that came apart from the text; kept, and not scored.
  """

  text: str
  finish: str = 'stop'
  reward: float | None = None
  reasoning: str = ''


@dataclasses.dataclass(frozen=True)
class Outcome:
  """The verdict on one answer: status, the extracted answer, scores, and what a reader may want to see."""

  status: str
  answer: str | None
  scores: Scores
  detail: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Item:
  """An example with its answers, their outcomes and the scores that count for it."""

  example: Example
  answers: tuple[Answer, ...]
  outcomes: tuple[Outcome, ...]
  scores: Scores


def mean_over_samples(example: Example, answers: Sequence[Answer], outcomes: Sequence[Outcome]) -> Scores:
  """Numerators and denominators averaged over the samples of one example."""
  totals: dict[str, list[float]] = {}
  for outcome in outcomes:
    for metric, (num, den) in outcome.scores.items():
      total = totals.setdefault(metric, [0.0, 0.0])
      total[0] += num
      total[1] += den
  count = len(outcomes)
  return {metric: (num / count, den / count) for metric, (num, den) in totals.items()}


@dataclasses.dataclass(frozen=True)
class Column:
  """One ratio: a metric, over all examples or over one group of them."""

  metric: str
  group: tuple[str, str] | None = None


@dataclasses.dataclass(frozen=True)
class Task:
  """A benchmark.

  load(path) → Data; prompt(example) → chat messages; score(pairs of example and answer) → their outcomes in
  the same order; combine(example, answers, outcomes) → the example's scores. `template` is all text of the prompt
  except the example's own, so that its hash distinguishes two prompts. `composites(items)` names
  plain means of ratios. `metric_order` says which metrics come first in a report, `group_metrics` which are
  reported by group. `accept(example, text)` false asks the model again, up to `attempts` times in all.
  """

  name: str
  primary: str
  template: str
  load: Callable[[str], Data]
  prompt: Callable[[Example], list[dict]]
  score: Callable[[Iterable[tuple[Example, Answer]]], Iterator[Outcome]]
  combine: Callable[[Example, Sequence[Answer], Sequence[Outcome]], Scores] = mean_over_samples
  composites: Callable[[Sequence[Item]], Mapping[str, Sequence[Column]]] = lambda items: {}
  sampling: Sampling = Sampling()
  settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  accept: Callable[[Example, str], bool] = lambda example, text: True
  attempts: int = 1
  metric_order: tuple[str, ...] = ()
  group_metrics: tuple[str, ...] = ()
  percent: bool = True
  extras: Callable[[Sequence[Item]], Mapping[str, Any]] = lambda items: {}
  charts: Callable[[Mapping, str], Sequence[str]] | None = None
  gallery: Callable[[Sequence[Item], str], str] | None = None


def each(score: Callable[[Example, Answer], Outcome]):
  """Lifts the score of one answer to the score of many."""

  def many(pairs):
    for example, answer in pairs:
      yield score(example, answer)

  return many


def user_message(*parts) -> list[dict]:
  """One user turn. A text part is a str.

  Any other part is a content dict such as {'type': 'image', 'image': path}.
  """
  content = [{'type': 'text', 'text': part} if isinstance(part, str) else part for part in parts]
  if len(content) == 1 and content[0]['type'] == 'text':
    return [{'role': 'user', 'content': content[0]['text']}]
  return [{'role': 'user', 'content': content}]


def without_repeats(examples: Iterable[Example]) -> tuple[tuple[Example, ...], tuple[Problem, ...]]:
  """The first example of every id, and a problem for each later one. Ids 1 and "1" are the same id."""
  kept: dict[str, Example] = {}
  problems = []
  for example in examples:
    if example.id in kept:
      problems.append(Problem(f'id {example.id}', 'duplicate_id'))
    else:
      kept[example.id] = example
  return tuple(kept.values()), tuple(problems)
