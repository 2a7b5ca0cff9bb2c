"""Groups of trajectories that are made up, for tests of what is done with them."""

import numpy as np

from rl.policy import Trajectory
from rl.rollout import Group


def made_up(prompt, query, samples, tokens, *, rewards=None, number=0, valid=None):
  """A group of constant responses, by default each rewarded by its place."""
  rewards = np.arange(samples, dtype=np.float32) if rewards is None else np.float32(rewards)
  said = lambda g: np.full(tokens, 65 + g, np.int32)
  every = [Trajectory(prompt, said(g), np.ones(tokens, bool), np.zeros(tokens, np.float32)) for g in range(samples)]
  valid = np.ones(samples, bool) if valid is None else np.array(valid)
  right, lost = np.float32(rewards == rewards.max()), np.zeros(samples, bool)
  return Group(number, query, every, np.ones(1, np.float32), rewards[:, None], rewards, right, valid, lost)
