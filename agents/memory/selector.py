"""The parametric case selector: Q(s,c) = p(success | task s, case c) as a small network, learnt as cases are used.

Memento (arXiv 2508.16153) acts once an episode, so the target of Q is the reward itself and its loss is
cross-entropy. Here the sentence encoder stays frozen and the network learns on cached vectors; `fine_tune.py` also
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
from core.params import Spec, einsum, zeros
from core.training.record import replace


@dataclasses.dataclass(frozen=True)
class Config:
  """The network and its training; the defaults are the released code's, but for the rate of a frozen encoder."""

  width: int  # of the encoder's vectors
  hidden: int = 512
  dropout: float = 0.2
  lr: float = 1e-3
  weight_decay: float = 0.01
  clip_norm: float = 1.0
  warmup: float = 0.06  # share of a fit's updates over which the rate rises
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
  """What training carries along; `updates` counts steps and, with the digest, is the selector's version."""

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
    Spec((2 * c.width, c.hidden), (None, 'mlp')),
    Spec((c.hidden,), ('mlp',), zeros),
    Spec((c.hidden, 2), ('mlp', None)),
    Spec((2,), (None,), zeros),
  )


def apply(
  params: Params, tasks: jax.Array, cases: jax.Array, *, dropout: float = 0.0, key: jax.Array | None = None
) -> jax.Array:
  """Logits [B, 2] of failure and success, of vectors [B, D]; a key switches dropout on."""
  h = jax.nn.relu(einsum('bd,df->bf', jnp.concatenate([cases, tasks], -1), params.up) + params.up_bias)
  if key is not None and dropout:
    h = jnp.where(jax.random.bernoulli(key, 1 - dropout, h.shape), h / (1 - dropout), 0)
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
  factor = max(1.0, (len(rewards) - successes) / successes) if successes else 1.0
  return (1 + (factor - 1) * rewards).astype(np.float32)


def optimizer(c: Config, total: int | None = None, decayed: Any = None) -> optax.GradientTransformation:
  """AdamW with clipping; over `total` updates a linear rise and fall of the rate, else a constant one.

  decayed: tree of bool, which weights decay; by default the network's matrices.
  """
  rate = c.lr
  if total is not None:
    rise = max(1, int(c.warmup * total))
    rate = optax.join_schedules(
      [optax.linear_schedule(0.0, c.lr, rise), optax.linear_schedule(c.lr, 0.0, max(1, total - rise))], [rise]
    )
  matrices = lambda params: jax.tree.map(lambda w: w.ndim > 1, params)
  return optax.chain(
    optax.clip_by_global_norm(c.clip_norm), optax.adamw(rate, weight_decay=c.weight_decay, mask=decayed or matrices)
  )


def init(c: Config, total: int | None = None) -> State:
  """A selector that knows nothing yet."""
  params = params_lib.init(jax.random.key(c.seed), spec(c))
  return State(params, optimizer(c, total).init(params), jnp.int32(0))


@functools.partial(jax.jit, static_argnames=('c', 'total'))
def update(state: State, batch: Batch, c: Config, total: int | None = None) -> tuple[State, jax.Array]:
  """One step of AdamW on a batch; its dropout key follows from the seed and the number of updates."""
  key = jax.random.fold_in(jax.random.key(c.seed), state.updates)
  loss = lambda p: cross_entropy(
    apply(p, batch.tasks, batch.cases, dropout=c.dropout, key=key), batch.rewards, batch.weights
  )
  value, grads = jax.value_and_grad(loss)(state.params)
  step, moments = optimizer(c, total).update(grads, state.moments, state.params)
  return State(optax.apply_updates(state.params, step), moments, state.updates + 1), value


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
    return Pairs(self.tasks[rows], self.cases[rows], self.rewards[rows], tuple(self.keys[i] for i in rows))


def pairs_of(uses: Sequence[Use], vectors) -> Pairs:
  """Pairs of a bank's uses. vectors: texts → [N, D], as `CaseBank.vectors`."""
  tasks, cases = vectors([u.query for u in uses]), vectors([case_text(u.case) for u in uses])
  return Pairs(tasks, cases, np.array([u.reward for u in uses], np.float32), tuple(u.key for u in uses))


def split(keys: Sequence[str], share: float, seed: int) -> np.ndarray:
  """Bool [N]: which pairs validate. Whole tasks do: pairs of one task share their label (all but a few)."""
  return np.array([int(task_key(f'{seed}/{key}'), 16) / 16**16 < share for key in keys], bool)


@dataclasses.dataclass(frozen=True)
class Validation:
  """How well Q tells success from failure on held-out tasks; auc is None where only one of the two occurs."""

  pairs: int
  accuracy: float
  f1: float
  auc: float | None

  @property
  def rank(self) -> float:
    """What the best state is chosen by: AUC, or F1 where there is none."""
    return self.f1 if self.auc is None else self.auc


def validate(params: Params, pairs: Pairs) -> Validation:
  """Accuracy and F1 at 0.5, and the area under the ROC curve. Raises ValueError without any pair."""
  from sklearn.metrics import f1_score, roc_auc_score

  if not len(pairs):
    raise ValueError('no pairs to validate on')
  q, won = scores(params, pairs.tasks, pairs.cases), pairs.rewards >= 0.5
  auc = float(roc_auc_score(won, q)) if 0 < won.sum() < len(won) else None
  return Validation(len(won), float(np.mean((q >= 0.5) == won)), float(f1_score(won, q >= 0.5, zero_division=0)), auc)


def batches(pairs: Pairs, c: Config, epochs: int) -> Iterator[Batch]:
  """Batches of shuffled epochs, the last of each padded with pairs of weight 0."""
  rng, weight = np.random.default_rng(c.seed), class_weights(pairs.rewards)
  for _ in range(epochs):
    order = rng.permutation(len(pairs))
    for start in range(0, len(order), c.batch):
      yield _batch(pairs, order[start : start + c.batch], weight, c.batch)


def _batch(pairs: Pairs, rows: np.ndarray, weight: np.ndarray, size: int) -> Batch:
  grow = lambda x: np.pad(x[rows], [(0, size - len(rows))] + [(0, 0)] * (x.ndim - 1))
  return Batch(grow(pairs.tasks), grow(pairs.cases), grow(pairs.rewards), grow(weight))


def fit(pairs: Pairs, c: Config, *, epochs: int = 10, share: float = 0.1) -> tuple[State, Validation | None]:
  """A selector trained from scratch, the best epoch by validation on `share` of the tasks; None if none is held out.

  Raises ValueError without pairs to train on.
  """
  held = split(pairs.keys, share, c.seed)
  train, test = pairs.take(np.flatnonzero(~held)), pairs.take(np.flatnonzero(held))
  if not len(train):
    raise ValueError(f'{len(pairs)} pairs of {len(set(pairs.keys))} tasks: none is left to train on')
  steps = -(-len(train) // c.batch)
  state, best = init(c, epochs * steps), None
  for number, batch in enumerate(batches(train, c, epochs), 1):
    state, _ = update(state, batch, c, epochs * steps)
    if number % steps == 0 and len(test):
      seen = validate(state.params, test)
      if best is None or seen.rank >= best[1].rank:  # of equals the one that has learnt longer
        best = state, seen
  # What goes on online starts with fresh moments: a fit's schedule has come to its end.
  state, seen = best or (state, None)
  return State(state.params, optimizer(c).init(state.params), state.updates), seen


def learn_online(state: State, replay: Sequence[Use], vectors, c: Config) -> State:
  """`online_steps` updates on minibatches drawn from the replay buffer (the paper's Algorithm 1)."""
  if not replay:
    return state
  weight = class_weights(np.array([use.reward for use in replay], np.float32))
  for _ in range(c.online_steps):
    rows = np.random.default_rng([c.seed, int(state.updates)]).integers(len(replay), size=c.batch)
    drawn = pairs_of([replay[i] for i in rows], vectors)
    state, _ = update(state, Batch(drawn.tasks, drawn.cases, drawn.rewards, weight[rows]), c)
  return state


def scores(params: Params, tasks: np.ndarray, cases: np.ndarray, chunk: int = 1024) -> np.ndarray:
  """Q [N] of a task [D] (or one a pair [N, D]) with cases [N, D]. Sizes are padded to powers of two, few programs."""
  tasks = np.broadcast_to(tasks, cases.shape)
  parts = []
  for start in range(0, len(cases), chunk):
    t, v = tasks[start : start + chunk], cases[start : start + chunk]
    grow = lambda x: np.pad(x, ((0, (1 << (len(x) - 1).bit_length()) - len(x)), (0, 0)))
    parts.append(np.asarray(_q(params, grow(t), grow(v)))[: len(v)])
  return np.concatenate(parts) if parts else np.zeros(0, np.float32)


_q = jax.jit(q_values)


def version(state: State) -> str:
  """What a record says of the selector that chose its cases: number of updates and a digest of the weights."""
  digest = hashlib.sha256(b''.join(np.asarray(w).tobytes() for w in jax.tree.leaves(state.params)))
  return f'q{int(state.updates)}-{digest.hexdigest()[:8]}'


NAMES = Params(*map(From, ('up', 'up_bias', 'out', 'out_bias')))


def save(path: str | os.PathLike, c: Config, state: State) -> None:
  """Writes a folder: weights as safetensors, the configuration and the number of updates as JSON."""
  weights.save(path, state.params, NAMES, spec(c))
  about = dataclasses.asdict(c) | {'updates': int(state.updates)}
  replace(pathlib.Path(path) / 'selector.json', json.dumps(about, indent=2, sort_keys=True) + '\n')


def load(path: str | os.PathLike) -> tuple[Config, State]:
  """(config, state) of a saved selector, its moments fresh. Raises CheckpointError naming what does not fit."""
  about = published.read_json(path, 'selector.json')
  with published.naming(f'{path}/selector.json'):
    updates = about.pop('updates')
    c = Config(**about)
  params = weights.load(Files(path), NAMES, spec(c), dtype=jnp.float32)
  return c, State(params, optimizer(c).init(params), jnp.int32(updates))
