"""Rollouts: plans over an engine, the groups of trajectories they return, and what of those is trained on."""

from rl.rollout.flat import Flat
from rl.rollout.groups import Ask, Grade, Group, Plan, Rollout, Selected
from rl.rollout.sampler import Sampler

__all__ = ['Ask', 'Flat', 'Grade', 'Group', 'Plan', 'Rollout', 'Sampler', 'Selected']
