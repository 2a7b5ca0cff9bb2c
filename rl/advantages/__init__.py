"""Advantages from rewards: one pure function per published rule, and the registry of them."""

from rl.advantages.groups import by_kind, decoupled, dr_grpo, gdpo, grpo, rloo, win_rate
from rl.advantages.registry import ADVANTAGES, Advantage, Name, resolve
from rl.advantages.scores import Lineage, Scores
from rl.advantages.subtrees import common_segments, tree_centred
from rl.advantages.tokens import reinforce_pp, reinforce_pp_baseline, token_rewards, treepo
from rl.advantages.whitening import flat, whiten

__all__ = [
  'ADVANTAGES',
  'Advantage',
  'Lineage',
  'Name',
  'Scores',
  'by_kind',
  'common_segments',
  'decoupled',
  'dr_grpo',
  'flat',
  'gdpo',
  'grpo',
  'reinforce_pp',
  'reinforce_pp_baseline',
  'resolve',
  'rloo',
  'token_rewards',
  'tree_centred',
  'treepo',
  'whiten',
  'win_rate',
]
