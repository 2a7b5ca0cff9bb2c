"""Advantages by name.

P prompts   G samples of each   T tokens

To add an advantage, write its function and give it one entry in `ADVANTAGES`: the choices of configs, `--help` and the
planner derive from that entry. From Python a function needs no entry: `rl.run(…, advantage=my_function)`.
"""

import dataclasses
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from rl.advantages.groups import by_kind, decoupled, dr_grpo, gdpo, grpo, rloo, win_rate
from rl.advantages.scores import Scores
from rl.advantages.subtrees import common_segments
from rl.advantages.tokens import reinforce_pp, reinforce_pp_baseline, token_rewards, treepo


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
    if self.per_token:
      return values
    return values[..., None]


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
  kind = jnp.zeros(valid.shape, jnp.int32)
  if scores.lineage is not None:
    kind = jnp.asarray(scores.lineage.kind)
  return by_kind(scores.totals, kind, valid)


def _reinforce_pp(scores: Scores) -> jax.Array:
  placed = token_rewards(scores.sums, scores.counted, scores.penalty, kl_coef=1.0)
  return reinforce_pp(placed, scores.counted)


def _reinforce_pp_baseline(scores: Scores) -> jax.Array:
  return reinforce_pp_baseline(scores.totals, scores.counted)


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
