"""Where queries come from, and what an answer to one is worth."""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import numpy as np

from core.conversations.rows import Rows
from core.toy import digits, expressions
from rl.query import Query
from rl.rewards import boxed, boxed_and_format, boxed_symbolic, exact_match


def digits_query(split: str, seed: int, index: int) -> Query:
  """Query `index` of the digits task: two handwritten digits and a question (`core.toy.digits`)."""
  item = digits.example(split, seed, index)
  return Query([{'role': 'user', 'content': f'<image>\n{item.question}'}], [item.image], item.answer)


def expressions_query(split: str, seed: int, index: int) -> Query:
  """Query `index` of the expressions task: three handwritten digits and two operations (`core.toy.expressions`)."""
  item = expressions.example(split, seed, index)
  messages = [{'role': 'user', 'content': f'<image>\n{item.question}'}]
  return Query(messages, [item.image], item.answer, item.solution)


@dataclasses.dataclass(frozen=True)
class Task:
  """query(split, seed, index) is one of an endless stream; reward and right take (answer, reference).

  reward trains; right is 1 or 0 and is what accuracy counts. heldout: how many different held-out queries there are.
  """

  query: Callable[[str, int, int], Query]
  reward: Callable[[str, str], float]
  right: Callable[[str, str], float]
  heldout: int = 2**30


REWARDS = {
  'exact_match': exact_match,
  'boxed': boxed,
  'boxed_and_format': boxed_and_format,
  'boxed_symbolic': boxed_symbolic,
}

TASKS = {
  'digits': Task(digits_query, exact_match, exact_match),
  'expressions': Task(expressions_query, boxed_and_format, boxed),
}


def from_files(train: Sequence[str], heldout: Sequence[str], reward: str) -> Task:
  """The rows of files in InternVL's format as queries: training rows shuffled anew each epoch, held-out ones in order.

  The answer is a row's "answer", or else the text of its last turn. Raises ValueError (when a row is read) for a
  video, FileNotFoundError and ValueError as `core.conversations.rows.Rows`.
  """
  splits = {'train': [Rows(path) for path in train], 'heldout': [Rows(path) for path in heldout]}
  ends = {split: np.cumsum([len(rows) for rows in parts]) for split, parts in splits.items()}

  @functools.lru_cache(4)
  def order(split, seed, epoch):
    return np.random.default_rng((seed, epoch)).permutation(ends[split][-1])

  def query(split: str, seed: int, index: int) -> Query:
    epoch, at = divmod(index, int(ends[split][-1]))
    row = int(order(split, seed, epoch)[at]) if split == 'train' else at
    part = int(np.searchsorted(ends[split], row, side='right'))
    rows, i = splits[split][part], row - int(ends[split][part] - len(splits[split][part]))
    talk, images, videos = rows[i]
    if videos:
      raise ValueError(f'{rows.where(i)}: has a video; queries may have images only')
    solution = talk[-1]['content']
    return Query(talk[:-1], images, str(rows.records[i].get('answer', solution)), solution)

  right = exact_match if reward == 'exact_match' else boxed
  return Task(query, REWARDS[reward], right, int(ends['heldout'][-1]))
