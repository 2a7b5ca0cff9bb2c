"""Training the case selector: pairs of tasks and cases, validation on held-out tasks, fits and online updates."""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from agents.memory import selector
from agents.memory.cases import Use, case_text, task_key
from core.padding import pad


def class_weights(rewards: np.ndarray) -> np.ndarray:
  """Weight of each pair: 1 for failures, max(1, failures / successes) for successes."""
  successes = float(np.sum(rewards))
  failures = len(rewards) - successes
  factor = 1.0
  if successes:
    factor = max(1.0, failures / successes)
  return (1 + (factor - 1) * rewards).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Pairs:
  """Training data on the host: vectors [N, D], rewards [N], and the task each pair belongs to."""

  tasks: np.ndarray
  cases: np.ndarray
  rewards: np.ndarray
  keys: tuple[str, ...]

  def __len__(self) -> int:
    return len(self.keys)

  def take(self, rows: np.ndarray) -> 'Pairs':
    keys = tuple(self.keys[row] for row in rows)
    return Pairs(tasks=self.tasks[rows], cases=self.cases[rows], rewards=self.rewards[rows], keys=keys)


def pairs_of(uses: Sequence[Use], vectors) -> Pairs:
  """Pairs of a bank's uses. vectors: texts → [N, D], as `CaseBank.vectors`."""
  return Pairs(
    tasks=vectors([use.query for use in uses]),
    cases=vectors([case_text(use.case) for use in uses]),
    rewards=np.array([use.reward for use in uses], np.float32),
    keys=tuple(use.key for use in uses),
  )


def split(keys: Sequence[str], share: float, seed: int) -> np.ndarray:
  """Bool [N]: the pairs for validation. A task is never divided: nearly all its pairs share their label."""

  def draw(key: str) -> float:  # in [0, 1), a function of seed and task
    return int(task_key(f'{seed}/{key}'), 16) / 16**16

  return np.array([draw(key) < share for key in keys], bool)


@dataclasses.dataclass(frozen=True)
class Validation:
  """How well Q separates success from failure on held-out tasks; auc is None if only one of the two occurs."""

  pairs: int
  accuracy: float
  f1: float
  auc: float | None

  @property
  def rank(self) -> float:
    """The figure by which the best state is chosen: AUC, or F1 without one."""
    if self.auc is None:
      return self.f1
    return self.auc


def validate(params: selector.Params, pairs: Pairs) -> Validation:
  """Accuracy and F1 at 0.5, and the area under the ROC curve. Raises ValueError without any pair."""
  from sklearn.metrics import f1_score, roc_auc_score

  if not len(pairs):
    raise ValueError('no pairs to validate on')
  q = selector.scores(params, pairs.tasks, pairs.cases)
  predicted = q >= 0.5
  won = pairs.rewards >= 0.5
  has_both = 0 < won.sum() < len(won)
  return Validation(
    pairs=len(won),
    accuracy=float(np.mean(predicted == won)),
    f1=float(f1_score(won, predicted, zero_division=0)),
    auc=float(roc_auc_score(won, q)) if has_both else None,
  )


def batches(pairs: Pairs, c: selector.Config, epochs: int) -> Iterator[selector.Batch]:
  """Batches of shuffled epochs, the last of each padded with pairs of weight 0."""
  rng = np.random.default_rng(c.seed)
  weight = class_weights(pairs.rewards)
  for _ in range(epochs):
    order = rng.permutation(len(pairs))
    for start in range(0, len(order), c.batch):
      rows = order[start : start + c.batch]
      yield selector.Batch(
        tasks=pad(pairs.tasks[rows], c.batch),
        cases=pad(pairs.cases[rows], c.batch),
        rewards=pad(pairs.rewards[rows], c.batch),
        weights=pad(weight[rows], c.batch),
      )


def fit(
  pairs: Pairs, c: selector.Config, *, epochs: int = 10, share: float = 0.1
) -> tuple[selector.State, Validation | None]:
  """(a selector trained from scratch, its validation): the best epoch by validation on `share` of the tasks.

  The validation is None, and the last epoch is kept, if no task is held out. Raises ValueError without pairs to train
  on.
  """
  is_held_out = split(pairs.keys, share, c.seed)
  train = pairs.take(np.flatnonzero(~is_held_out))
  test = pairs.take(np.flatnonzero(is_held_out))
  if not len(train):
    raise ValueError(f'{len(pairs)} pairs of {len(set(pairs.keys))} tasks: none is left to train on')
  steps = -(-len(train) // c.batch)
  total = epochs * steps
  state = selector.init(c, total)
  best = best_validation = None
  for number, batch in enumerate(batches(train, c, epochs), 1):
    state, _ = selector.update(state, batch, c, total)
    is_epoch_end = number % steps == 0
    if is_epoch_end and len(test):
      validation = validate(state.params, test)
      if best is None or validation.rank >= best_validation.rank:  # of equals the one trained longer
        best = state
        best_validation = validation
  chosen = state if best is None else best
  # Online training starts with fresh moments, because the schedule of the fit is at its end.
  moments = selector.optimizer(c).init(chosen.params)
  return selector.State(params=chosen.params, moments=moments, updates=chosen.updates), best_validation


def learn_online(state: selector.State, replay: Sequence[Use], vectors, c: selector.Config) -> selector.State:
  """`online_steps` updates on minibatches sampled from the replay buffer (the paper's Algorithm 1)."""
  if not replay:
    return state
  rewards = np.array([use.reward for use in replay], np.float32)
  weight = class_weights(rewards)
  for _ in range(c.online_steps):
    rng = np.random.default_rng([c.seed, int(state.updates)])
    rows = rng.integers(len(replay), size=c.batch)
    drawn = pairs_of([replay[row] for row in rows], vectors)
    batch = selector.Batch(tasks=drawn.tasks, cases=drawn.cases, rewards=drawn.rewards, weights=weight[rows])
    state, _ = selector.update(state, batch, c)
  return state
