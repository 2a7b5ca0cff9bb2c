"""Tasks: a stream of queries and the rewards of their answers."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from core.conversations.rows import Rows
from core.toy import digits, expressions, pairs, shortcut, sums
from core.training.concatenated import Concatenated
from rl.query import Query

WARMUP_SEED, ROLLOUT_SEED, HELDOUT_SEED = 1, 2, 3  # separate streams of queries


def digits_query(split: str, seed: int, index: int) -> Query:
  """Query `index` of the digits task: two handwritten digits and a question (`core.toy.digits`)."""
  item = digits.example(split, seed, index)
  return Query([{'role': 'user', 'content': f'<image>\n{item.question}'}], [item.image], item.answer)


def expressions_query(split: str, seed: int, index: int) -> Query:
  """Query `index` of the expressions task: three handwritten digits and two operations (`core.toy.expressions`)."""
  item = expressions.example(split, seed, index)
  messages = [{'role': 'user', 'content': f'<image>\n{item.question}'}]
  return Query(messages, [item.image], item.answer, item.solution)


def shortcut_query(split: str, seed: int, index: int) -> Query:
  """Query `index` of the shortcut task: the sum of two handwritten digits, often told by the question."""
  item = shortcut.example(split, seed, index)
  return Query([{'role': 'user', 'content': f'<image>\n{item.question}'}], [item.image], item.answer, item.solution)


def shortcut_guess(query: Query, seed: int) -> str:
  """An answer to a query of the shortcut task that takes the number in the question."""
  asked = query.messages[-1]['content']
  return shortcut.guess(asked, seed)


def sums_query(split: str, seed: int, index: int) -> Query:
  """Query `index` of the sums task: text alone, 2 to 7 numbers of one digit (`core.toy.sums`)."""
  item = sums.example(split, seed, index)
  return Query([{'role': 'user', 'content': item.question}], [], item.answer, item.solution)


def pairs_query(split: str, seed: int, index: int) -> Query:
  """Query `index` of the pairs task: text alone, the sum of two numbers below 50 (`core.toy.pairs`)."""
  item = pairs.example(split, seed, index)
  return Query([{'role': 'user', 'content': item.question}], [], item.answer)


def sums_variant(query: Query, seed: int) -> str:
  """Another sum with the same answer."""
  return sums.variant(query.solution, seed)


@dataclasses.dataclass(frozen=True)
class Task:
  """Queries, and the rewards of responses to them.

  query(split, seed, index), of split 'train' or 'heldout', is one of an endless stream. rewards: as
  `rl.rewards.resolve` takes them. heldout: the number of different held-out queries. vary(query, seed): another
  problem with the same answer, for demonstrations of problem synthesis; None where the task cannot write one.
  guess(query, seed): a response that takes a shortcut, for demonstrations that a run is to improve on; None: there is
  none.
  """

  query: Callable[[str, int, int], Query]
  rewards: Any = None
  heldout: int = 2**30
  vary: Callable[[Query, int], str] | None = None
  guess: Callable[[Query, int], str] | None = None


TASKS = {
  'digits': Task(digits_query, 'exact_match'),
  'expressions': Task(expressions_query, 'boxed_and_format'),
  'pairs': Task(pairs_query, 'last_number', heldout=len(pairs.pairs('heldout'))),
  'shortcut': Task(shortcut_query, 'boxed', guess=shortcut_guess),
  'sums': Task(sums_query, 'boxed', vary=sums_variant),
}


def task_of(task: Task | str | Sequence) -> Task:
  """A task as it is, by name, or made of questions (texts or queries). Raises ValueError for anything else."""
  if isinstance(task, Task):
    return task
  if isinstance(task, str):
    if task not in TASKS:
      raise ValueError(f'task={task!r}: expected one of {", ".join(TASKS)}, a Task, or a sequence of questions')
    return TASKS[task]
  return questions(task)


def questions(train: Sequence[str | Query], heldout: Sequence[str | Query] = (), rewards: Any = None) -> Task:
  """The questions as a task, reshuffled each epoch. Without held-out ones evaluation asks the training questions.

  Raises ValueError if there is no question.
  """
  splits = {'train': list(map(_asked, train)), 'heldout': list(map(_asked, heldout or train))}
  if not splits['train']:
    raise ValueError('a task of no questions: expected one or more')
  return Task(functools.partial(_listed, splits), rewards, len(splits['heldout']))


def _asked(question: str | Query) -> Query:
  if isinstance(question, Query):
    return question
  return Query([{'role': 'user', 'content': question}])


def _listed(splits, split: str, seed: int, index: int) -> Query:
  rows = splits[split]
  n = len(rows)
  epoch, at = divmod(index, n)
  if split == 'train':
    order = _order(n, seed, epoch)
    at = int(order[at])
  return rows[at]


@functools.lru_cache(4)
def _order(n: int, seed: int, epoch: int) -> np.ndarray:
  """The order of n rows in an epoch."""
  return np.random.default_rng((seed, epoch)).permutation(n)


class _FileQueries(Concatenated):
  """The queries of several files of rows, by number."""

  def __getitem__(self, index: int) -> Query:
    rows, i = self.find(index)
    turns, images, videos = rows[i]
    if videos:
      raise ValueError(f'{rows.where(i)}: has a video; queries may have images only')
    *asked, last = turns
    solution = last['content']
    answer = rows.records[i].get('answer', solution)
    return Query(asked, images, str(answer), solution)


def from_files(train: Sequence[str], heldout: Sequence[str], rewards: Any) -> Task:
  """The rows of files in InternVL's format as queries: training rows reshuffled each epoch, held-out ones in order.

  The answer is a row's "answer", else the text of its last turn. Raises ValueError (when a row is read) for a video,
  FileNotFoundError and ValueError as `core.conversations.rows.Rows`.
  """
  splits = {
    'train': _FileQueries([Rows(path) for path in train]),
    'heldout': _FileQueries([Rows(path) for path in heldout]),
  }
  return Task(functools.partial(_listed, splits), rewards, len(splits['heldout']))
