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
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

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
  success = rewards * log_p[:, 1]
  failure = (1 - rewards) * log_p[:, 0]
  losses = -(success + failure)
  return jnp.sum(weights * losses) / jnp.maximum(weights.sum(), 1e-9)


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
