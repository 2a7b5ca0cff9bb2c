"""A preference as the reward of a group: a judge compares its samples two by two.

A judge is any function (prompt, first, second) -> verdict: 'first', 'second' or 'tie'. It raises `JudgeFailed` where it
can give none, which counts as a tie.
"""

import collections
import concurrent.futures
import dataclasses
import threading
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from absl import logging

from rl.query import Query
from rl.rewards.comparisons import LOSS, TIE, WIN, pairs_of, share_of_ties, shares, win_rates

Judge = Callable[[str, Any, Any], str]
Order = Literal['fixed', 'alternate', 'both']
OUTCOMES = {'first': WIN, 'tie': TIE, 'second': LOSS}
FAILED = 'failed'
WEIGHTS = {'win': 1.0, 'ties': 0.0, 'failed': 0.0, 'agreement': 0.0}  # of the components in a reward


class JudgeFailed(RuntimeError):
  """A judge has no verdict on a pair, after all its attempts."""


class OneSidedJudge(ValueError):
  """A judge gives the same verdict for every pair: nothing can be learned from it."""


@dataclasses.dataclass(frozen=True)
class Compared:
  """One pair's result. outcome: of the pair's lower place. agrees: whether both orders gave it; True with one order."""

  outcome: float
  failed: bool
  agrees: bool


class Pairwise:
  """`Pairwise(judge)(query, samples)`: for each of G samples its win rate, and how its comparisons went.

  Returns {'win': rate, 'ties': share, 'failed': share, 'agreement': share} a sample; `WEIGHTS` makes the win rate alone
  count. opponents, decimals: as `comparisons.pairs_of` and `win_rates` take them. order: which sample of a pair is
  shown first: the lower place (fixed), lower and higher in turn (alternate), or each in turn in two requests (both),
  where contradicting verdicts are a tie and `agreement` is the share of pairs without a contradiction. workers: threads
  that ask. patience: raises OneSidedJudge after that many equal verdicts in a row; 0: never.
  """

  def __init__(
    self,
    judge: Judge,
    *,
    opponents: int | None = None,
    order: Order = 'alternate',
    decimals: int | None = None,
    workers: int = 8,
    patience: int = 256,
  ):
    if order not in ('fixed', 'alternate', 'both'):
      raise ValueError(f"order={order!r}: expected 'fixed', 'alternate' or 'both'")
    if workers < 1 or patience < 0:
      raise ValueError(f'workers={workers}, patience={patience}: expected 1 or more, 0 or more')
    self._judge = judge
    self._order = order
    self._opponents = opponents
    self._decimals = decimals
    self._workers = workers
    self._watch = _Watch(patience)

  def __call__(self, query: Query, samples: Sequence[Any]) -> list[dict[str, float]]:
    prompt = prompt_of(query)
    n = len(samples)
    pairs = pairs_of(n, self._opponents if n > 1 else None)
    requests = [request for at, pair in enumerate(pairs) for request in self._requests(at, *pair)]
    ask = lambda request: self._ask(prompt, samples[request[0]], samples[request[1]])
    with concurrent.futures.ThreadPoolExecutor(self._workers) as threads:
      verdicts = list(threads.map(ask, requests))
    self._watch.see(verdicts)
    compared = self._combine(pairs, requests, verdicts)
    outcomes = [c.outcome for c in compared]
    columns = {
      'win': win_rates(n, pairs, outcomes, decimals=self._decimals),
      'ties': share_of_ties(n, pairs, outcomes),
      'failed': shares(n, pairs, [c.failed for c in compared]),
      'agreement': shares(n, pairs, [c.agrees for c in compared]),
    }
    return [{name: float(column[g]) for name, column in columns.items()} for g in range(n)]

  def _requests(self, at: int, i: int, j: int) -> list[tuple[int, int]]:
    """(shown first, shown second) of each request for pair number `at`."""
    if self._order == 'both':
      return [(i, j), (j, i)]
    swapped = self._order == 'alternate' and at % 2
    return [(j, i) if swapped else (i, j)]

  def _ask(self, prompt: str, first: Any, second: Any) -> str:
    try:
      verdict = self._judge(prompt, first, second)
    except JudgeFailed as error:
      logging.warning('a comparison counts as a tie: %s', error)
      return FAILED
    if verdict not in OUTCOMES:
      raise ValueError(f'a judge returned {verdict!r:.80}: expected one of {", ".join(OUTCOMES)}')
    return verdict

  def _combine(self, pairs, requests, verdicts) -> list[Compared]:
    """The result of each pair, from its one or two verdicts."""
    given = collections.defaultdict(list)
    for (first, second), verdict in zip(requests, verdicts):
      outcome = OUTCOMES.get(verdict, TIE)
      low, high = sorted((first, second))
      if first != low:
        outcome = 1 - outcome  # of the lower place
      given[low, high].append((outcome, verdict))
    compared = []
    for pair in pairs:
      outcomes = [outcome for outcome, _ in given[pair]]
      failed = any(verdict == FAILED for _, verdict in given[pair])
      agrees = len(set(outcomes)) == 1 and not failed
      compared.append(Compared(outcomes[0] if agrees else TIE, failed, agrees))
    return compared


def prompt_of(query: Query) -> str:
  """What the policy was asked: the last turn's text."""
  return str(query.messages[-1]['content'])


class _Watch:
  """Counts equal verdicts in a row, over all groups."""

  def __init__(self, patience: int):
    self._patience = patience
    self._lock = threading.Lock()
    self._last = ''
    self._row = 0

  def see(self, verdicts: Sequence[str]) -> None:
    """Raises OneSidedJudge after `patience` equal verdicts in a row."""
    with self._lock:
      for verdict in verdicts:
        self._row = self._row + 1 if verdict == self._last else 1
        self._last = verdict
      if self._patience and self._row >= self._patience:
        raise OneSidedJudge(
          f'the judge answered {self._last!r} to each of the last {self._row} comparisons: expected both images to win '
          'sometimes; check its template, its parsing and the order of the images'
        )


def rates(samples: Sequence[dict[str, float]]) -> np.ndarray:
  """float64 [G]: the win rates of what `Pairwise` returns."""
  return np.array([sample['win'] for sample in samples])
