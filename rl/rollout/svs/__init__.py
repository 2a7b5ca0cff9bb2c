"""Self-play with variational problem synthesis (SvS, arXiv 2508.14029): the policy solves problems, writes variants of
those that it half solves, and solves the variants."""

from rl.rollout.svs.plan import KINDS, Svs
from rl.rollout.svs.prompts import TEMPLATE, extract, instructed
from rl.rollout.svs.settings import Synthesis

__all__ = ['KINDS', 'TEMPLATE', 'Svs', 'Synthesis', 'extract', 'instructed']
