"""Losses of preference pairs: DPO, BCO, and MPO which mixes them with imitation of the chosen answer.

B pairs   2 the chosen answer, then the rejected one   T tokens

An answer's log-probability is the sum over its tokens; its reward is β·(log π(y) − log π_ref(y)). A pair without
tokens is padding, with no loss and no weight.
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
  """Weights of the three terms of MPO (arXiv 2411.10442 eq. 1), by default those of InternVL3.5."""

  beta: float = field(0.1, 'scale of the reward; a larger value keeps the policy closer to the reference')
  preference: float = field(0.8, 'weight of the preference term (DPO)')
  quality: float = field(0.2, 'weight of the quality term (BCO)')
  generation: float = field(1.0, 'weight of the mean cross entropy of the tokens of chosen answers')

  def __post_init__(self):
    if self.beta <= 0:
      raise ValueError(f'beta={self.beta}: expected a positive number')
    for name in ('preference', 'quality', 'generation'):
      weight = getattr(self, name)
      if weight < 0:
        raise ValueError(f'{name}={weight}: expected zero or more')


@struct.dataclass
class RewardShift:
  """δ of BCO: the mean of all rewards so far, chosen and rejected; state of the loss, kept in checkpoints."""

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
    mean = self.mean + gap / jnp.maximum(pairs, 1)
    return RewardShift(mean=mean.astype(jnp.float32), pairs=pairs)


def dpo(rewards: jax.Array, label_smoothing: float = 0.0) -> jax.Array:
  """[B] −log σ(a − b) of rewards a, b [B, 2] (DPO, arXiv 2305.18290 eq. 7); smoothed as in its released code."""
  margin = rewards[..., 0] - rewards[..., 1]
  right = -(1 - label_smoothing) * log_sigmoid(margin)
  return right - label_smoothing * log_sigmoid(-margin)


def bco(rewards: jax.Array, shift: jax.Array) -> jax.Array:
  """[B] −log σ(a − δ) − log σ(−(b − δ)) of rewards a, b [B, 2] (BCO, arXiv 2404.04656), the parts added."""
  chosen = -log_sigmoid(rewards[..., 0] - shift)
  return chosen - log_sigmoid(shift - rewards[..., 1])


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

  logp: float32 [B, 2, T] of the answers' tokens under the policy; mask: bool [B, 2, T], false at padding; reference:
  float32 [B, 2], the answers' summed log-probabilities under the frozen reference. The shift is updated with these
  pairs before it is used, and returned as `carry`, so that each micro-batch continues from the last. token_weight:
  [B], the weight of a token of a chosen answer relative to a pair (`token_weight_of`); None treats these rows as the
  whole batch.
  """
  logp = jnp.where(mask, logp, 0.0)
  valid = mask.any((-2, -1))
  margin = logp.sum(-1) - reference
  rewards = jnp.where(valid[:, None], config.beta * margin, 0.0)
  shift = shift.update(rewards, valid)
  if token_weight is None:
    token_weight = token_weight_of(mask)
  by_pair = {
    'preference': dpo(rewards),
    'quality': bco(rewards, shift.mean),
    'generation': -logp[:, 0].sum(-1) * token_weight,
  }
  terms = {name: jnp.where(valid, term, 0.0).sum() for name, term in by_pair.items()}
  total = sum(getattr(config, name) * term for name, term in terms.items())
  pairs = valid.sum().astype(total.dtype)
  notes = terms | {
    'chosen': rewards[:, 0].sum(),
    'rejected': rewards[:, 1].sum(),
    'preferred': jnp.sum(rewards[:, 0] > rewards[:, 1]),
    'shift': shift.mean * pairs,
  }
  metrics = {name: (jax.lax.stop_gradient(note), pairs) for name, note in notes.items()}
  return Loss(total, pairs, metrics, carry=shift)


def token_weight_of(mask: jax.Array) -> jax.Array:
  """[B]: pairs divided by tokens of chosen answers, of a whole batch with the mask bool [B, 2, T].

  It turns the sum over tokens into a mean over tokens when the total is divided by pairs. Passed to each micro-batch,
  it makes the sum over micro-batches exact for any split.
  """
  pairs = mask.any((-2, -1)).sum()
  tokens = mask[:, 0].sum()
  return jnp.full(mask.shape[:1], pairs / jnp.maximum(tokens, 1))
