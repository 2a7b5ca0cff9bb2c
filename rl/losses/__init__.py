"""Losses by reward (`policy_loss`) and by preference (`mpo`), as sums with their weights."""

from rl.losses.aggregation import AGGREGATIONS, aggregate
from rl.losses.divergence import KL, Kl, kl
from rl.losses.policy import RULES, Rule, policy_loss, truncated_importance
from rl.losses.preference import Mpo, RewardShift, bco, dpo, mpo, token_weight_of
from rl.losses.surrogate import SURROGATES

__all__ = [
  'AGGREGATIONS',
  'KL',
  'RULES',
  'SURROGATES',
  'Kl',
  'Mpo',
  'RewardShift',
  'Rule',
  'aggregate',
  'bco',
  'dpo',
  'kl',
  'mpo',
  'policy_loss',
  'token_weight_of',
  'truncated_importance',
]
