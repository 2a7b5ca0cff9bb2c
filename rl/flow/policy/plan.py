"""The rollout plan of a flow policy: a group of images for each prompt."""

import dataclasses

import numpy as np

from rl.flow.policy.engine import Wanted
from rl.flow.policy.trajectory import FlowTrajectory
from rl.rollout.groups import Ask


@dataclasses.dataclass(frozen=True)
class Paths:
  """`samples` images of each prompt; each depends on `seed`, the rollout and the number of its query alone.

  deterministic: no step adds noise, for evaluation; the noise that a path starts from is then the image's own.
  """

  samples: int
  seed: int = 0
  deterministic: bool = False

  def __call__(self, sampler, ask: Ask) -> list[list[FlowTrajectory]]:
    """As of `rl.rollout.Plan`."""
    options = sampler.policy.options
    groups = [(number + self.seed * 2**20) * self.samples for number in ask.numbers]
    seeds = [first + g for first in groups for g in range(self.samples)]
    shared = options.shared_noise and not self.deterministic
    starts = seeds
    if shared:
      starts = np.repeat(groups, self.samples).tolist()
    prompts = [prompt for prompt in ask.prompts for _ in range(self.samples)]
    picks = options.trained(ask.step, seeds)
    stochastic = np.zeros(options.steps, bool) if self.deterministic else options.stochastic(ask.step)
    out = sampler.engine(Wanted(prompts, seeds, starts, picks), stochastic)
    weight = options.weights(picks)
    every = [
      FlowTrajectory(
        prompt=prompts[i],
        tokens=picks[i],
        mask=np.ones(len(picks[i]), bool),
        logp=np.zeros_like(out.logp[i]) if options.normalised else out.logp[i],
        response=out.images[i],
        weight=None if weight is None else weight[i],
        states=out.states[i],
        following=out.following[i],
        means=out.means[i],
      )
      for i in range(len(prompts))
    ]
    return [every[at : at + self.samples] for at in range(0, len(every), self.samples)]
