"""SEED: scores of LaTeX physics answers by equivalence, edit distance and tolerance (CMPhysBench)."""

from bench.seed.pool import Pool, score_many
from bench.seed.result import KINDS, TIERS, VERSION, Score, Settings
from bench.seed.scoring import readable, score

__all__ = ['KINDS', 'TIERS', 'VERSION', 'Pool', 'Score', 'Settings', 'readable', 'score', 'score_many']
