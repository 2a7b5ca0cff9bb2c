"""Memory as an agent uses it: read cases for a task, write the outcome of the task."""

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from agents.memory import fitting, softq
from agents.memory import selector as selection
from agents.memory.cases import Case, CaseBank, Found, Use, task_key
from agents.memory.index import unit

Kind = Literal['none', 'random', 'cosine', 'q']


@dataclasses.dataclass(frozen=True)
class Reading:
  """How cases are chosen. The choice is deterministic.

  kind: none; random (a control); cosine (non-parametric); q (parametric). k: number of cases (4 was the paper's best).
  alpha: 0 takes the k best; above 0 draws them without replacement by softmax(score / alpha), to collect data.
  balanced: k successes and k failures. void: cases whose kernel weight exp(-d²/2·bandwidth²) to the task is below
  this are left out (the void case of Memento 2, arXiv 2512.22716). exclude_own: a task never sees its own cases.
  """

  kind: Kind = 'cosine'
  k: int = 4
  alpha: float = 0.0
  balanced: bool = False
  void: float = 0.0
  bandwidth: float = 0.5
  exclude_own: bool = False
  prefilter: int = 256
  seed: int = 0

  def __post_init__(self):
    def expect(name, ok, what):
      if not ok(getattr(self, name)):
        raise ValueError(f'{name}={getattr(self, name)!r}: expected {what}')

    expect('kind', lambda v: v in ('none', 'random', 'cosine', 'q'), 'none, random, cosine or q')
    expect('k', lambda v: v >= 0, '0 or more')
    expect('alpha', lambda v: v >= 0, '0 or more')
    expect('void', lambda v: 0 <= v <= 1, 'a weight from 0 to 1')
    expect('bandwidth', lambda v: v > 0, 'a positive number')
    expect('prefilter', lambda v: v >= max(1, self.k), 'at least k')


class Memory:
  """A case bank, how it is read, and the selector trained on the uses of cases.

  online: train the selector after each write. Otherwise call `refit` between iterations.
  """

  def __init__(
    self,
    bank: CaseBank,
    reading: Reading = Reading(),
    *,
    config: selection.Config | None = None,
    state: selection.State | None = None,
    online: bool = True,
    run: str = '',
  ):
    self.bank = bank
    self.reading = reading
    self.online = online
    self.run = run
    self.config = config or selection.Config(width=bank.encoder.width)
    if self.config.width != bank.encoder.width:
      raise ValueError(
        f'the selector reads vectors of width {self.config.width}, {bank.encoder.id} makes {bank.encoder.width}'
      )
    self._state = state  # initialised on first use, since most readings need none
    self._replay: list[Use] = []  # the replay buffer: the bank's uses up to the last write

  @property
  def state(self) -> selection.State:
    """The current selector."""
    if self._state is None:
      self._state = selection.init(self.config)
    return self._state

  def version(self) -> str:
    """The name in records of the way that cases are chosen."""
    kind = self.reading.kind
    if kind == 'q':
      return f'q-{selection.version(self.state)}'
    return kind

  def read(self, task: str, *, key: str = '') -> list[Found]:
    """The cases for a task, best first; empty for kind none, k = 0 and an empty bank."""
    key = key or task_key(task)
    if self.reading.kind == 'none' or self.reading.k == 0:
      return []
    if not self.reading.balanced:
      return self._choose(task, key, lambda case: True)
    successes = self._choose(task, key, lambda case: case.positive)
    failures = self._choose(task, key, lambda case: not case.positive)
    return successes + failures

  def write(self, task: str, plan: str, reward: float, *, key: str = '', used: Sequence[Case] = ()) -> Case:
    """Retains a finished task, records the outcome for the cases it used, and trains the selector."""
    key = key or task_key(task)
    self.bank.add_uses(task, used, reward, key=key, run=self.run, selector=self.version())
    case = self.bank.add(task, plan, reward, key=key, run=self.run)
    if self.online and self.reading.kind == 'q':
      last = 0
      if self._replay:
        last = self._replay[-1].id
      self._replay += self.bank.uses(after=last)
      self._state = fitting.learn_online(self.state, self._replay, self.bank.vectors, self.config)
    return case

  def refit(self, *, epochs: int = 10, share: float = 0.1) -> fitting.Validation | None:
    """Trains the selector from scratch on every recorded use; the validation on held-out tasks."""
    pairs = fitting.pairs_of(self.bank.uses(), self.bank.vectors)
    self._state, validation = fitting.fit(pairs, self.config, epochs=epochs, share=share)
    return validation

  def _choose(self, task: str, key: str, where) -> list[Found]:
    r = self.reading
    # A random choice is over the whole bank, so that it does not profit from the prefilter's similarity.
    prefilter = len(self.bank) if r.kind == 'random' else r.prefilter
    needs_all = r.alpha or r.void
    candidates = self.bank.search(
      task,
      max(r.k, prefilter) if needs_all else r.k,
      scorer=self._scorer(key),
      exclude=key if r.exclude_own else '',
      where=where,
      prefilter=max(prefilter, 1),
    )
    if r.void:
      candidates = self._admitted(task, candidates)
    if r.alpha and len(candidates) > 1:
      # Gumbel top-k: the k largest of score/α + noise are a draw from softmax(score/α) without replacement.
      scores = np.array([candidate.score for candidate in candidates])
      noise = -np.log(-np.log(_uniform(r.seed, key, len(candidates))))
      order = np.argsort(-(scores / r.alpha + noise), kind='stable')
      candidates = [candidates[i] for i in order]
    return candidates[: r.k]

  def _scorer(self, key: str) -> Callable | None:
    """(task vector, case vectors) → scores; None for the bank's cosine."""
    if self.reading.kind == 'random':
      return lambda query, cases: _uniform(self.reading.seed, key, len(cases))
    if self.reading.kind == 'q':
      return lambda query, cases: selection.scores(self.state.params, query, cases)
    return None

  def _admitted(self, task: str, candidates: list[Found]) -> list[Found]:
    """The candidates whose kernel weight to the task is at least `void`."""
    texts = [task, *(candidate.case.task for candidate in candidates)]
    vectors = unit(self.bank.vectors(texts))
    distance2 = ((vectors[1:] - vectors[0]) ** 2).sum(-1)
    weights = np.asarray(softq.kernel(distance2, self.reading.bandwidth))
    return [candidate for candidate, weight in zip(candidates, weights) if weight >= self.reading.void]


def _uniform(seed: int, key: str, n: int) -> np.ndarray:
  """n numbers in (0, 1), a function of seed and task."""
  digest = hashlib.sha256(key.encode()).hexdigest()
  rng = np.random.default_rng([seed, int(digest[:12], 16)])
  return np.clip(rng.random(n), 1e-12, 1 - 1e-12)
