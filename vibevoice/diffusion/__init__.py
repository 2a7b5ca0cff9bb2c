"""From noise to one latent: the noise schedule and the head that denoises (arXiv 2508.19205, §2.2).

The solver, and the head inside it, are `kernels.diffusion_head`.
"""

from kernels.head.arguments import Block, Guidance, Params, Steps
from kernels.head.solver import solve
from vibevoice.diffusion.head import init, spec, velocity
from vibevoice.diffusion.sample import diffusion_head, solver_steps
from vibevoice.diffusion.schedule import Schedule

__all__ = [
  'Block',
  'Guidance',
  'Params',
  'Schedule',
  'Steps',
  'diffusion_head',
  'init',
  'solve',
  'solver_steps',
  'spec',
  'velocity',
]
