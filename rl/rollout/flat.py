"""The plain rollout plan: every prompt is answered several times, each time from its start."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from rl.policy import Draw, Trajectory
from rl.rollout.groups import Ask
from rl.rollout.sampler import Sampler


@dataclasses.dataclass(frozen=True)
class Flat:
  """`samples` responses to each prompt; how each is drawn depends on `seed` and the number of its query alone."""

  draw: Draw
  samples: int
  seed: int = 0

  def __call__(self, sampler: Sampler, ask: Ask) -> list[list[Trajectory]]:
    """As of `rl.rollout.Plan`."""
    seeds = [(number + self.seed * 2**20) * self.samples for number in ask.numbers]
    return sample(sampler, ask.prompts, self.draw, samples=self.samples, seeds=seeds)


def sample(
  sampler: Sampler, prompts: Sequence, draw: Draw, *, samples: int = 1, seeds: Sequence[int] | None = None
) -> list[list[Trajectory]]:
  """`samples` responses to each prompt; response g to prompt b is drawn with seeds[b] + g."""
  if seeds is None:
    seeds = range(0, len(prompts) * samples, samples)
  for request in sampler.policy.requests(prompts, draw, samples=samples, seeds=seeds):
    sampler.engine.submit(request)
  trajectories = [
    Trajectory(
      prompt=prompts[n // samples],
      tokens=done.tokens,
      mask=np.ones(len(done.tokens), bool),
      logp=done.logp,
      ended=done.reason != 'length',
      response=sampler.policy.text(done.tokens),
    )
    for n, done in enumerate(sampler.engine.run())
  ]
  return [trajectories[start : start + samples] for start in range(0, len(trajectories), samples)]
