"""Responses that grow as trees of segments (TreePO, arXiv 2508.17445)."""

from rl.rollout.tree.growth import Growth, Segment
from rl.rollout.tree.plan import Tree
from rl.rollout.tree.settings import Branching

__all__ = ['Branching', 'Growth', 'Segment', 'Tree']
