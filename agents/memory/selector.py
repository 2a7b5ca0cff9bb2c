"""The parametric case selector: Q(s,c) = p(success | task s, case c) as a small network, trained as cases are used.

Memento (arXiv 2508.16153) acts once an episode, so the target of Q is the reward itself and its loss is
cross-entropy. Here the sentence encoder is frozen and the network trains on cached vectors; `fine_tune.py` also
trains the encoder, as the released code does.

B pairs   D width of an encoder's vector   F hidden
"""

import dataclasses
import functools
import hashlib
import json
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from agents.memory.cases import Use, case_text, task_key
from core import params as params_lib
from core.files import config as published
from core.files import weights
from core.files.tensors import Files
from core.files.weights import From
from core.padding import pad
from core.params import Spec, einsum, zeros
from core.training.record import replace


@dataclasses.dataclass(frozen=True)
class Config:
  """The network and its training; the defaults are the released code's, except the learning rate."""

  width: int  # of the encoder's vectors
  hidden: int = 512
  dropout: float = 0.2
  lr: float = 1e-3
  weight_decay: float = 0.01
  clip_norm: float = 1.0
  warmup: float = 0.06  # share of a fit's updates in which the rate rises
  batch: int = 32
  online_steps: int = 4  # updates after each write
  seed: int = 42


@struct.dataclass
class Params:
  """Two layers over [case; task]."""

  up: Any  # [2D, F]
  up_bias: Any
  out: Any  # [F, 2]
  out_bias: Any


@struct.dataclass
class State:
  """The training state; `updates` counts steps, and with the digest it is the selector's version."""

  params: Params
  moments: Any
  updates: jax.Array


@struct.dataclass
class Batch:
  """Pairs with their outcome: task and case vectors [B, D], reward in [0, 1] [B], weight [B] (0: padding)."""

  tasks: Any
  cases: Any
  rewards: Any
  weights: Any


def spec(c: Config) -> Params:
  """Every weight, once."""
  return Params(
    up=Spec((2 * c.width, c.hidden), (None, 'mlp')),
    up_bias=Spec((c.hidden,), ('mlp',), zeros),
    out=Spec((c.hidden, 2), ('mlp', None)),
    out_bias=Spec((2,), (None,), zeros),
  )


def apply(
  params: Params, tasks: jax.Array, cases: jax.Array, *, dropout: float = 0.0, key: jax.Array | None = None
) -> jax.Array:
  """Logits [B, 2] of failure and success, of vectors [B, D]; a key switches dropout on."""
  pairs = jnp.concatenate([cases, tasks], -1)
  h = jax.nn.relu(einsum('bd,df->bf', pairs, params.up) + params.up_bias)
  if key is not None and dropout:
    kept = jax.random.bernoulli(key, 1 - dropout, h.shape)
    h = jnp.where(kept, h / (1 - dropout), 0)
  return einsum('bf,fo->bo', h, params.out) + params.out_bias


def q_values(params: Params, tasks: jax.Array, cases: jax.Array) -> jax.Array:
  """Q = p(success) [B]."""
  return jax.nn.softmax(apply(params, tasks, cases), -1)[:, 1]


def cross_entropy(logits: jax.Array, rewards: jax.Array, weights: jax.Array) -> jax.Array:
  """-Σ w [r log Q + (1-r) log(1-Q)] / Σ w of logits [B, 2], weighted."""
  log_p = jax.nn.log_softmax(logits, -1)
  losses = -(rewards * log_p[:, 1] + (1 - rewards) * log_p[:, 0])
  return jnp.sum(weights * losses) / jnp.maximum(weights.sum(), 1e-9)


def class_weights(rewards: np.ndarray) -> np.ndarray:
  """Weight of each pair: 1 for failures, max(1, failures / successes) for successes."""
  successes = float(np.sum(rewards))
  failures = len(rewards) - successes
  factor = max(1.0, failures / successes) if successes else 1.0
  return (1 + (factor - 1) * rewards).astype(np.float32)


def optimizer(c: Config, total: int | None = None, decayed: Any = None) -> optax.GradientTransformation:
  """AdamW with clipping; the rate rises and falls linearly over `total` updates, or is constant if that is None.

  decayed: tree of bool, which weights decay; by default the network's matrices.
  """
  rate = c.lr
  if total is not None:
    rise = max(1, int(c.warmup * total))
    fall = max(1, total - rise)
    parts = [optax.linear_schedule(0.0, c.lr, rise), optax.linear_schedule(c.lr, 0.0, fall)]
    rate = optax.join_schedules(parts, [rise])
  clip = optax.clip_by_global_norm(c.clip_norm)
  return optax.chain(clip, optax.adamw(rate, weight_decay=c.weight_decay, mask=decayed or _matrices))


def _matrices(params: Any) -> Any:
  """Tree of bool: which weights are matrices."""
  return jax.tree.map(lambda w: w.ndim > 1, params)


def init(c: Config, total: int | None = None) -> State:
  """An untrained selector."""
  params = params_lib.init(jax.random.key(c.seed), spec(c))
  moments = optimizer(c, total).init(params)
  return State(params=params, moments=moments, updates=jnp.int32(0))


@functools.partial(jax.jit, static_argnames=('c', 'total'))
def update(state: State, batch: Batch, c: Config, total: int | None = None) -> tuple[State, jax.Array]:
  """One step of AdamW on a batch; its dropout key follows from the seed and the number of updates."""
  key = jax.random.fold_in(jax.random.key(c.seed), state.updates)

  def loss(params):
    logits = apply(params, batch.tasks, batch.cases, dropout=c.dropout, key=key)
    return cross_entropy(logits, batch.rewards, batch.weights)

  value, grads = jax.value_and_grad(loss)(state.params)
  step, moments = optimizer(c, total).update(grads, state.moments, state.params)
  params = optax.apply_updates(state.params, step)
  return State(params=params, moments=moments, updates=state.updates + 1), value


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
    return self.f1 if self.auc is None else self.auc


def validate(params: Params, pairs: Pairs) -> Validation:
  """Accuracy and F1 at 0.5, and the area under the ROC curve. Raises ValueError without any pair."""
  from sklearn.metrics import f1_score, roc_auc_score

  if not len(pairs):
    raise ValueError('no pairs to validate on')
  q = scores(params, pairs.tasks, pairs.cases)
  predicted = q >= 0.5
  won = pairs.rewards >= 0.5
  has_both = 0 < won.sum() < len(won)
  return Validation(
    pairs=len(won),
    accuracy=float(np.mean(predicted == won)),
    f1=float(f1_score(won, predicted, zero_division=0)),
    auc=float(roc_auc_score(won, q)) if has_both else None,
  )


def batches(pairs: Pairs, c: Config, epochs: int) -> Iterator[Batch]:
  """Batches of shuffled epochs, the last of each padded with pairs of weight 0."""
  rng = np.random.default_rng(c.seed)
  weight = class_weights(pairs.rewards)
  for _ in range(epochs):
    order = rng.permutation(len(pairs))
    for start in range(0, len(order), c.batch):
      rows = order[start : start + c.batch]
      yield Batch(
        tasks=pad(pairs.tasks[rows], c.batch),
        cases=pad(pairs.cases[rows], c.batch),
        rewards=pad(pairs.rewards[rows], c.batch),
        weights=pad(weight[rows], c.batch),
      )


def fit(pairs: Pairs, c: Config, *, epochs: int = 10, share: float = 0.1) -> tuple[State, Validation | None]:
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
  state = init(c, total)
  best = best_validation = None
  for number, batch in enumerate(batches(train, c, epochs), 1):
    state, _ = update(state, batch, c, total)
    is_epoch_end = number % steps == 0
    if is_epoch_end and len(test):
      validation = validate(state.params, test)
      if best is None or validation.rank >= best_validation.rank:  # of equals the one trained longer
        best = state
        best_validation = validation
  chosen = state if best is None else best
  # Online training starts with fresh moments, because the schedule of the fit is at its end.
  moments = optimizer(c).init(chosen.params)
  return State(params=chosen.params, moments=moments, updates=chosen.updates), best_validation


def learn_online(state: State, replay: Sequence[Use], vectors, c: Config) -> State:
  """`online_steps` updates on minibatches sampled from the replay buffer (the paper's Algorithm 1)."""
  if not replay:
    return state
  rewards = np.array([use.reward for use in replay], np.float32)
  weight = class_weights(rewards)
  for _ in range(c.online_steps):
    rng = np.random.default_rng([c.seed, int(state.updates)])
    rows = rng.integers(len(replay), size=c.batch)
    drawn = pairs_of([replay[row] for row in rows], vectors)
    batch = Batch(tasks=drawn.tasks, cases=drawn.cases, rewards=drawn.rewards, weights=weight[rows])
    state, _ = update(state, batch, c)
  return state


def scores(params: Params, tasks: np.ndarray, cases: np.ndarray, chunk: int = 1024) -> np.ndarray:
  """Q [N] of a task [D] (or one task a pair [N, D]) with cases [N, D].

  Chunks are padded to powers of two, so that few programs are compiled.
  """
  tasks = np.broadcast_to(tasks, cases.shape)
  parts = [np.zeros(0, np.float32)]
  for start in range(0, len(cases), chunk):
    chunk_cases = cases[start : start + chunk]
    count = len(chunk_cases)
    size = 1 << (count - 1).bit_length()
    q = _q(params, pad(tasks[start : start + chunk], size), pad(chunk_cases, size))
    parts.append(np.asarray(q)[:count])
  return np.concatenate(parts)


_q = jax.jit(q_values)


def version(state: State) -> str:
  """The selector's name in records: number of updates and a digest of the weights."""
  weights = [np.asarray(weight).tobytes() for weight in jax.tree.leaves(state.params)]
  digest = hashlib.sha256(b''.join(weights))
  return f'q{int(state.updates)}-{digest.hexdigest()[:8]}'


NAMES = Params(*map(From, ('up', 'up_bias', 'out', 'out_bias')))


def save(path: str | os.PathLike, c: Config, state: State) -> None:
  """Writes a folder: weights as safetensors, the configuration and the number of updates as JSON."""
  weights.save(path, state.params, NAMES, spec(c))
  about = dataclasses.asdict(c) | {'updates': int(state.updates)}
  replace(pathlib.Path(path) / 'selector.json', json.dumps(about, indent=2, sort_keys=True) + '\n')


def load(path: str | os.PathLike) -> tuple[Config, State]:
  """(config, state) of a saved selector, with fresh moments. Raises CheckpointError naming what does not fit."""
  about = published.read_json(path, 'selector.json')
  with published.naming(f'{path}/selector.json'):
    updates = about.pop('updates')
    c = Config(**about)
  params = weights.load(Files(path), NAMES, spec(c), dtype=jnp.float32)
  moments = optimizer(c).init(params)
  return c, State(params=params, moments=moments, updates=jnp.int32(updates))
