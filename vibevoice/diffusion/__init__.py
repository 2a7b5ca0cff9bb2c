"""From noise to one latent: the noise schedule, the solver and the head that denoises (arXiv 2508.19205, §2.2)."""

from vibevoice.diffusion.head import Block, Params, init, spec, velocity
from vibevoice.diffusion.sample import Guidance, diffusion_head
from vibevoice.diffusion.schedule import Schedule
from vibevoice.diffusion.solver import solve

__all__ = [
  'Block',
  'Guidance',
  'Params',
  'Schedule',
  'diffusion_head',
  'init',
  'solve',
  'spec',
  'velocity',
]
