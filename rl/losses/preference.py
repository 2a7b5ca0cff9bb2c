"""Losses of preference pairs: DPO, BCO, and MPO which mixes them with imitation of the chosen answer.

B pairs   2 the chosen answer, then the rejected one   T tokens

An answer's log-probability is the sum over its tokens; its reward is β·(log π(y) − log π_ref(y)). A pair without
tokens is padding: it has no loss and no weight.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from core.launch.fields import field
from core.training.steps import Loss

log_sigmoid = jax.nn.log_sigmoid


@dataclasses.dataclass(frozen=True)
class Mpo:
  """Weights of the three terms of MPO (arXiv 2411.10442 eq. 1) as InternVL3.5 trains with."""

  beta: float = field(0.1, 'scale of the reward: how hard the policy is held to the reference')
  preference: float = field(0.8, 'weight of the preference term (DPO)')
  quality: float = field(0.2, 'weight of the quality term (BCO)')
  generation: float = field(1.0, 'weight of the mean cross entropy of the tokens of chosen answers')

  def __post_init__(self):
    if self.beta <= 0:
      raise ValueError(f'beta={self.beta}: expected a positive number')
    for name in ('preference', 'quality', 'generation'):
      if getattr(self, name) < 0:
        raise ValueError(f'{name}={getattr(self, name)}: expected zero or more')


@struct.dataclass
class RewardShift:
  """δ of BCO: the mean of all rewards seen, chosen and rejected alike; state of the loss, kept in checkpoints."""

  mean: Any  # float32 []
  pairs: Any  # float32 [], exact to 16.7 million

  @classmethod
  def new(cls) -> 'RewardShift':
    """Before the first pair."""
    return cls(jnp.float32(0), jnp.float32(0))

  def update(self, rewards: jax.Array, valid: jax.Array) -> 'RewardShift':
    """With the rewards [B, 2] of more pairs, those of `valid` bool [B]; no gradient flows into it.

    For batches of one size this is δ_n = (n−1)/n·δ_{n−1} + m/n of their means m: no window, never reset.
    """
    rewards = jax.lax.stop_gradient(rewards)
    count = valid.sum().astype(jnp.float32)
    gap = jnp.where(valid, rewards.mean(-1) - self.mean, 0.0).sum()
    pairs = self.pairs + count
    return RewardShift((self.mean + gap / jnp.maximum(pairs, 1)).astype(jnp.float32), pairs)


def dpo(rewards: jax.Array, label_smoothing: float = 0.0) -> jax.Array:
  """[B] −log σ(a − b) of rewards a, b [B, 2] (DPO, arXiv 2305.18290 eq. 7); smoothed as in its released code."""
  margin = rewards[..., 0] - rewards[..., 1]
  return -(1 - label_smoothing) * log_sigmoid(margin) - label_smoothing * log_sigmoid(-margin)


def bco(rewards: jax.Array, shift: jax.Array) -> jax.Array:
  """[B] −log σ(a − δ) − log σ(−(b − δ)) of rewards a, b [B, 2] (BCO, arXiv 2404.04656), the parts added."""
  return -log_sigmoid(rewards[..., 0] - shift) - log_sigmoid(shift - rewards[..., 1])


def mpo(
  logp: jax.Array,
  mask: jax.Array,
  reference: jax.Array,
  shift: RewardShift,
  *,
  config: Mpo = Mpo(),
  token_weight: jax.Array | None = None,
) -> Loss:
  """Mixed preference optimisation (arXiv 2411.10442): the mean over pairs, and the next shift.

  logp: float32 [B, 2, T] of the answers' tokens under the policy; mask: bool [B, 2, T] of the tokens there are;
  reference: float32 [B, 2], the answers' summed log-probabilities under the frozen reference. The shift takes in
  these pairs first and is used then; it comes back as `carry`, so it goes from micro-batch to micro-batch.
  token_weight: what a token of a chosen answer weighs against a pair, [B]: the pairs over the tokens of all chosen
  answers of the batch (`token_weight_of`). None takes these rows for the whole batch.
  """
  logp = jnp.where(mask, logp, 0.0)
  valid = mask.any((-2, -1))
  rewards = jnp.where(valid[:, None], config.beta * (logp.sum(-1) - reference), 0.0)
  shift = shift.update(rewards, valid)
  weight = token_weight_of(mask) if token_weight is None else token_weight
  terms = {'preference': dpo(rewards), 'quality': bco(rewards, shift.mean), 'generation': -logp[:, 0].sum(-1) * weight}
  terms = {name: jnp.where(valid, term, 0.0).sum() for name, term in terms.items()}
  total = sum(getattr(config, name) * term for name, term in terms.items())
  pairs = valid.sum().astype(total.dtype)
  notes = terms | {
    'chosen': rewards[:, 0].sum(),
    'rejected': rewards[:, 1].sum(),
    'preferred': jnp.sum(rewards[:, 0] > rewards[:, 1]),
    'shift': shift.mean * pairs,
  }
  return Loss(total, pairs, {k: (jax.lax.stop_gradient(v), pairs) for k, v in notes.items()}, shift)


def token_weight_of(mask: jax.Array) -> jax.Array:
  """[B]: the pairs over the tokens of all chosen answers of a whole batch, whose mask is bool [B, 2, T].

  A mean over tokens beside a mean over pairs, in one sum over one weight: given to each micro-batch, their sum is
  exact however the batch is split.
  """
  pairs, tokens = mask.any((-2, -1)).sum(), mask[:, 0].sum()
  return jnp.full(mask.shape[:1], pairs / jnp.maximum(tokens, 1))
