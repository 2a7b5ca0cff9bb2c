"""Memory as an agent uses it: read cases for a task, write how the task ended."""

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Literal

import numpy as np

from agents.memory import selector as selection
from agents.memory import softq
from agents.memory.cases import Case, CaseBank, Found, Use, task_key
from agents.memory.index import unit

Kind = Literal['none', 'random', 'cosine', 'q']


@dataclasses.dataclass(frozen=True)
class Reading:
  """How cases are chosen. With everything else equal the same choice is made again.

  kind: none; random (a control); cosine (non-parametric); q (parametric). k: how many (4 was the paper's best).
  alpha: 0 takes the k best; above 0 draws them without replacement by softmax(score / alpha), for collecting data.
  balanced: k successes and k failures. void: cases whose kernel weight exp(-d²/2·bandwidth²) to the task is below
  this are not admitted (the void case of Memento 2, arXiv 2512.22716). exclude_own: a task never sees its own cases.
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
  """A case bank, how it is read, and the selector that learns from what was read.

  online: the selector learns after each write. Without, `refit` trains it anew, between iterations.
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
    self.bank, self.reading, self.online, self.run = bank, reading, online, run
    self.config = config or selection.Config(width=bank.encoder.width)
    if self.config.width != bank.encoder.width:
      raise ValueError(
        f'the selector reads vectors of width {self.config.width}, {bank.encoder.id} makes {bank.encoder.width}'
      )
    self._state = state  # drawn when first needed: most readings need none
    self._replay: list[Use] = []  # the replay buffer, read from the bank as it grows

  @property
  def state(self) -> selection.State:
    """The selector as it is now."""
    self._state = self._state or selection.init(self.config)
    return self._state

  def version(self) -> str:
    """What a record says of how its cases were chosen."""
    r = self.reading
    return f'{r.kind}-{selection.version(self.state)}' if r.kind == 'q' else r.kind

  def read(self, task: str, *, key: str = '') -> list[Found]:
    """The cases for a task, best first; empty for kind none, k = 0 and an empty bank."""
    r, key = self.reading, key or task_key(task)
    if r.kind == 'none' or r.k == 0:
      return []
    if not r.balanced:
      return self._choose(task, key, lambda case: True)
    return self._choose(task, key, lambda case: case.positive) + self._choose(task, key, lambda case: not case.positive)

  def write(self, task: str, plan: str, reward: float, *, key: str = '', used: Sequence[Case] = ()) -> Case:
    """Retains a finished task, records the outcome for the cases it had used, and lets the selector learn."""
    key, chosen_by = key or task_key(task), self.version()
    self.bank.add_uses(task, used, reward, key=key, run=self.run, selector=chosen_by)
    case = self.bank.add(task, plan, reward, key=key, run=self.run)
    if self.online and self.reading.kind == 'q':
      self._replay += self.bank.uses(after=self._replay[-1].id if self._replay else 0)
      self._state = selection.learn_online(self.state, self._replay, self.bank.vectors, self.config)
    return case

  def refit(self, *, epochs: int = 10, share: float = 0.1) -> selection.Validation | None:
    """Trains the selector from scratch on every recorded use; the validation on held-out tasks."""
    pairs = selection.pairs_of(self.bank.uses(), self.bank.vectors)
    self._state, seen = selection.fit(pairs, self.config, epochs=epochs, share=share)
    return seen

  def _choose(self, task: str, key: str, where) -> list[Found]:
    r = self.reading
    exclude = key if r.exclude_own else ''
    scorer = {
      'cosine': None,
      'random': lambda query, cases: _chance(r.seed, key, len(cases)),
      'q': lambda query, cases: selection.scores(self.state.params, query, cases),
    }[r.kind]
    # Random choice is over the whole bank: it must not profit from the prefilter's similarity.
    prefilter = len(self.bank) if r.kind == 'random' else r.prefilter
    wide = r.k if not (r.alpha or r.void) else max(r.k, prefilter)
    found = self.bank.search(task, wide, scorer=scorer, exclude=exclude, where=where, prefilter=max(prefilter, 1))
    if r.void:
      found = self._admitted(task, found)
    if r.alpha and len(found) > 1:
      # Gumbel top-k: the k largest of score/α + noise are a draw from softmax(score/α) without replacement.
      noise = -np.log(-np.log(_chance(r.seed, key, len(found))))
      order = np.argsort(-(np.array([f.score for f in found]) / r.alpha + noise), kind='stable')
      found = [found[i] for i in order]
    return found[: r.k]

  def _admitted(self, task: str, found: list[Found]) -> list[Found]:
    vectors = unit(self.bank.vectors([task, *(f.case.task for f in found)]))
    weights = np.asarray(softq.kernel(((vectors[1:] - vectors[0]) ** 2).sum(-1), self.reading.bandwidth))
    return [f for f, weight in zip(found, weights) if weight >= self.reading.void]


def _chance(seed: int, key: str, n: int) -> np.ndarray:
  """n numbers in (0, 1) that depend on seed and task alone."""
  draws = np.random.default_rng([seed, int(hashlib.sha256(key.encode()).hexdigest()[:12], 16)]).random(n)
  return np.clip(draws, 1e-12, 1 - 1e-12)
