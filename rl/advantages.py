"""Advantages from rewards: one pure function per published rule, and the registry of them.

P prompts   G samples of each   R reward components   T tokens

`valid` bool [P, G] marks the samples that count; the others enter no mean and get advantage 0. None counts all.
To add an advantage, write its function and give it one entry in `ADVANTAGES`: the choices of configs, `--help` and the
planner derive from that entry. From Python a function needs no entry: `rl.run(…, advantage=my_function)`.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from rl.tree_advantage import common_segments, tree_centred
from rl.whitening import flat, whiten

STD_EPS = 1e-6


def _all(rewards, valid):
  return jnp.ones(rewards.shape, bool) if valid is None else valid


def _centred(rewards, valid):
  """(rewards minus their group's mean, number of samples [P, 1]); a group of one keeps its reward, as in verl."""
  n = valid.sum(-1, keepdims=True)
  mean = jnp.where(valid, rewards, 0).sum(-1, keepdims=True) / jnp.maximum(n, 1)
  centred = jnp.where(n == 1, rewards, rewards - mean)
  no_signal = flat(rewards, valid)[..., None] & (n > 1)
  return jnp.where(valid & ~no_signal, centred, 0), n


def grpo(rewards: jax.Array, valid: jax.Array | None = None) -> jax.Array:
  """Group-normalised rewards (GRPO, arXiv 2402.03300 §4.1): float32 [P, G] to [P, G].

  (r − mean)/(std + 1e-6) with the unbiased standard deviation of the group. A group whose rewards are all equal has
  advantage 0; a group of one keeps its reward (mean 0, std 1), as in verl.
  """
  centred, n = _centred(rewards, _all(rewards, valid))
  variance = jnp.sum(centred**2, -1, keepdims=True) / jnp.maximum(n - 1, 1)
  return jnp.where(n == 1, centred, centred / (jnp.sqrt(variance) + STD_EPS))


def dr_grpo(rewards: jax.Array, valid: jax.Array | None = None) -> jax.Array:
  """r − mean of the group (Dr. GRPO, arXiv 2503.20783 §3.2): float32 [P, G] to [P, G].

  A group of one keeps its reward.
  """
  return _centred(rewards, _all(rewards, valid))[0]


def rloo(rewards: jax.Array, valid: jax.Array | None = None) -> jax.Array:
  """r − mean of the other samples of the group (RLOO, arXiv 2402.14740): float32 [P, G] to [P, G].

  A group of one keeps its reward.
  """
  centred, n = _centred(rewards, _all(rewards, valid))
  return centred * jnp.where(n > 1, n / jnp.maximum(n - 1, 1), 1)


def win_rate(rewards: jax.Array, valid: jax.Array | None = None) -> jax.Array:
  """`grpo` of win rates: the share of a group's other samples that a reward exceeds, ties by half: [P, G] to [P, G].

  Rewards count by their order alone (Pref-GRPO, arXiv 2508.20751, its ablation with scores as win rates). A judge that
  compares samples itself is a reward, `rl.rewards.pairwise.Pairwise`, with `grpo`.
  """
  valid = _all(rewards, valid)
  own, other = rewards[..., :, None], rewards[..., None, :]
  points = jnp.where(own > other, 1.0, jnp.where(own == other, 0.5, 0.0))
  against = valid[..., None, :] & ~jnp.eye(rewards.shape[-1], dtype=bool)
  rates = jnp.where(against, points, 0.0).sum(-1) / jnp.maximum(against.sum(-1), 1)
  return grpo(rates, valid)


def token_rewards(
  rewards: jax.Array, mask: jax.Array, divergence: jax.Array | None = None, kl_coef: float = 0.0
) -> jax.Array:
  """[P, G, T]: the reward of a sample [P, G] at its last token, minus kl_coef·divergence [P, G, T] at every token.

  (REINFORCE++, arXiv 2501.03262; the divergence there is k1 from the reference policy.)
  """
  last = mask & (jnp.cumsum(mask, -1) == mask.sum(-1, keepdims=True))
  placed = jnp.where(last, rewards[..., None], 0.0)
  if divergence is None:
    return placed
  return placed - kl_coef * jnp.where(mask, divergence, 0.0)


def reinforce_pp(rewards: jax.Array, mask: jax.Array, gamma: float = 1.0) -> jax.Array:
  """Returns of token rewards, whitened over the batch (REINFORCE++, arXiv 2501.03262): float32 [P, G, T].

  rewards: [P, G, T] from `token_rewards`; the return is Σ_{t' ≥ t} γ^(t' − t) r_t' over the tokens of `mask`, which
  alone count as steps.
  """

  def back(later, now):
    reward, counted = now
    value = jnp.where(counted, reward + gamma * later, later)
    return value, value

  rewards = jnp.where(mask, rewards, 0.0)
  by_time = (jnp.moveaxis(rewards, -1, 0), jnp.moveaxis(mask, -1, 0))
  end = jnp.zeros(rewards.shape[:-1], rewards.dtype)
  _, returns = jax.lax.scan(back, end, by_time, reverse=True)
  return whiten(jnp.moveaxis(returns, 0, -1), mask)


def reinforce_pp_baseline(rewards: jax.Array, mask: jax.Array) -> jax.Array:
  """r − mean of the group, at every token, whitened over the batch (REINFORCE++-baseline, arXiv 2501.03262).

  rewards: [P, G]; mask: bool [P, G, T]; returns float32 [P, G, T]. A sample without tokens enters no mean.
  """
  centred = dr_grpo(rewards, mask.any(-1))
  return whiten(jnp.broadcast_to(centred[..., None], mask.shape), mask)


def decoupled(rewards: jax.Array, weights: jax.Array, valid: jax.Array | None = None) -> jax.Array:
  """Σ_r w_r · grpo(component r), each component normalised separately so that none dominates: [P, G, R] to [P, G].

  weights: [R]. (Multi-reward optimisation of Vision-SR1, arXiv 2508.19652; the first step of `gdpo`.)
  """
  components = range(rewards.shape[-1])
  parts = jnp.stack([grpo(rewards[..., r], valid) for r in components], -1)
  return jnp.sum(parts * jnp.asarray(weights), -1)


MOST_KINDS = 4  # of trajectories in a group


def by_kind(rewards: jax.Array, kind: jax.Array, valid: jax.Array | None = None) -> jax.Array:
  """`grpo` of each kind of trajectory in a group separately: [P, G] to [P, G]; kind: int32 [P, G], below `MOST_KINDS`.

  (Vision-SR1's two rollouts, arXiv 2508.19652 version 2.)
  """
  valid = _all(rewards, valid)
  parts = [grpo(rewards, valid & (kind == k)) for k in range(MOST_KINDS)]
  return sum(parts)


def gdpo(rewards: jax.Array, weights: jax.Array, valid: jax.Array | None = None) -> jax.Array:
  """`decoupled`, whitened over all samples of the batch (GDPO, arXiv 2601.05242): [P, G, R] to [P, G]."""
  return whiten(decoupled(rewards, weights, valid), _all(rewards[..., 0], valid))


@struct.dataclass
class Lineage:
  """How the samples of a group descend from each other; each int32 [P, G].

  parent: the place in the group of the sample that this one was forked from, −1 for none. segment: the first segment
  that it does not share with its parent. kind: a number assigned by the rollout plan, for example to tell solutions of
  original problems from those of synthesised ones.
  """

  parent: Any
  segment: Any
  kind: Any


@struct.dataclass
class Scores:
  """The inputs of an advantage."""

  rewards: Any  # float32 [P, G, R]
  weights: Any  # float32 [R] of the components in their sum
  valid: Any  # bool [P, G], false where the reward was lost
  mask: Any  # bool [P, G, T], the tokens that the policy chose
  penalty: Any = None  # float32 [P, G, T] subtracted at each token, a KL in the reward; None: no such term
  lineage: Lineage | None = None  # None: flat groups, sampled independently

  @property
  def counted(self) -> jax.Array:
    """Bool [P, G, T]: the tokens of valid samples."""
    return jnp.asarray(self.mask) & jnp.asarray(self.valid)[..., None]

  @property
  def sums(self) -> jax.Array:
    """Float32 [P, G]: Σ_r w_r · component r."""
    return jnp.sum(jnp.asarray(self.rewards) * jnp.asarray(self.weights), -1)

  @property
  def totals(self) -> jax.Array:
    """Float32 [P, G]: `sums`, minus the penalty of all tokens."""
    if self.penalty is None:
      return self.sums
    return self.sums - jnp.sum(jnp.where(self.counted, self.penalty, 0.0), -1)


@dataclasses.dataclass(frozen=True)
class Advantage:
  """A registry entry: a rule over `Scores`, and its properties.

  compute: to float32 [P, G, T] if `per_token`, else [P, G]. whole_batch: it normalises over all prompts, so it needs
  those of all processes. by_component: it normalises each reward component separately, so it cannot take a per-token
  penalty. meaning: one line, for `--help` and the docs.
  """

  compute: Callable[[Scores], jax.Array]
  meaning: str
  per_token: bool = False
  whole_batch: bool = False
  by_component: bool = False

  def __call__(self, scores: Scores) -> jax.Array:
    """Float32 [P, G, T] if `per_token`, else [P, G, 1]; 0 for samples that are not valid.

    Raises ValueError for a penalty if the rule is `by_component`.
    """
    if self.by_component and scores.penalty is not None:
      raise ValueError('a KL penalty in the reward needs an advantage of summed rewards, not one by component')
    values = self.compute(scores)
    return values if self.per_token else values[..., None]


def _of_totals(rule):
  """A rule over [P, G] rewards as one over `Scores`."""

  def compute(scores: Scores) -> jax.Array:
    return rule(scores.totals, jnp.asarray(scores.valid))

  return compute


def _of_components(rule):
  """A rule over [P, G, R] rewards as one over `Scores`."""

  def compute(scores: Scores) -> jax.Array:
    return rule(jnp.asarray(scores.rewards), scores.weights, jnp.asarray(scores.valid))

  return compute


def _by_kind(scores: Scores) -> jax.Array:
  valid = jnp.asarray(scores.valid)
  kind = jnp.zeros(valid.shape, jnp.int32) if scores.lineage is None else jnp.asarray(scores.lineage.kind)
  return by_kind(scores.totals, kind, valid)


def _reinforce_pp(scores: Scores) -> jax.Array:
  placed = token_rewards(scores.sums, scores.counted, scores.penalty, kl_coef=1.0)
  return reinforce_pp(placed, scores.counted)


def _reinforce_pp_baseline(scores: Scores) -> jax.Array:
  return reinforce_pp_baseline(scores.totals, scores.counted)


def treepo(
  rewards: jax.Array, common: np.ndarray, mask: jax.Array, *, by_size: bool = False, reject: bool = False
) -> jax.Array:
  """r − mean, averaged over the groups that share 0, 1, 2, … segments, whitened (TreePO, arXiv 2508.17445 §2.3).

  rewards: [P, G]; common: int32 [P, G, G] of `common_segments`; mask: bool [P, G, T]; returns float32 [P, G, T], the
  same at every token of a sample. by_size: the mean over groups is weighted by their sizes. reject: groups within the
  tree whose rewards are all equal are left out. A sample without tokens enters no mean. Without shared segments this is
  `reinforce_pp_baseline`.
  """
  centred = tree_centred(rewards, common, mask.any(-1), by_size=by_size, reject=reject)
  return whiten(jnp.broadcast_to(centred[..., None], mask.shape), mask)


def _treepo(**options):
  """`treepo` as a rule over `Scores`."""

  def compute(scores: Scores) -> jax.Array:
    lineage = scores.lineage
    shape = scores.valid.shape
    if lineage is None:
      common = np.zeros((*shape, shape[-1]), np.int32)
    else:
      common = common_segments(np.asarray(lineage.parent), np.asarray(lineage.segment))
    return treepo(scores.totals, common, scores.counted, **options)

  return compute


ADVANTAGES = {
  'grpo': Advantage(_of_totals(grpo), '(r − mean)/(std + 1e-6) in the group, unbiased std'),
  'dr_grpo': Advantage(_of_totals(dr_grpo), 'r − mean of the group'),
  'rloo': Advantage(_of_totals(rloo), 'r − mean of the other samples of the group'),
  'win_rate': Advantage(_of_totals(win_rate), 'grpo of the share of the group that a reward exceeds'),
  'reinforce_pp': Advantage(
    _reinforce_pp, 'returns of token rewards, whitened over the tokens of the batch', per_token=True, whole_batch=True
  ),
  'reinforce_pp_baseline': Advantage(
    _reinforce_pp_baseline,
    'r − mean of the group at every token, whitened over the tokens of the batch',
    per_token=True,
    whole_batch=True,
  ),
  'treepo': Advantage(
    _treepo(),
    'r − mean, averaged over all subtrees of a sample, whitened over the tokens',
    per_token=True,
    whole_batch=True,
  ),
  'treepo_size': Advantage(
    _treepo(by_size=True), 'treepo with subtrees weighted by their leaves', per_token=True, whole_batch=True
  ),
  'treepo_reject': Advantage(
    _treepo(reject=True), 'treepo without subtrees of equal rewards', per_token=True, whole_batch=True
  ),
  'decoupled': Advantage(_of_components(decoupled), 'Σ w·grpo of each reward component separately', by_component=True),
  'grpo_by_kind': Advantage(_by_kind, 'grpo among the trajectories of each kind in a group'),
  'gdpo': Advantage(
    _of_components(gdpo), 'decoupled, whitened over the samples of the batch', whole_batch=True, by_component=True
  ),
}


def resolve(advantage: 'str | Advantage | Callable[[Scores], jax.Array]') -> Advantage:
  """An advantage by its name in `ADVANTAGES`, as an entry, or as a function of `Scores` that returns [P, G].

  Raises ValueError for anything else.
  """
  if isinstance(advantage, Advantage):
    return advantage
  if isinstance(advantage, str) and advantage in ADVANTAGES:
    return ADVANTAGES[advantage]
  if isinstance(advantage, str) or not callable(advantage):
    raise ValueError(f'advantage={advantage!r}: expected one of {", ".join(ADVANTAGES)}, an Advantage, or a function')
  return Advantage(advantage, getattr(advantage, '__qualname__', repr(advantage)))


Name = Literal[tuple(ADVANTAGES)]  # for config fields: choices and help follow the registry
