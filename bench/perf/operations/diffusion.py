"""VibeVoice's diffusion head: random arguments, and the published order in torch."""

from collections.abc import Callable
from typing import Any


class TorchHead:
  """The head of torch in the published order: modulation at every step, both branches in one batch."""

  def __init__(self, weights):
    self.blocks = []
    for block in weights.blocks:
      matrices = [_linear(x) for x in (block.modulation, block.gate, block.up, block.down)]
      self.blocks.append((_tensor(block.norm), *matrices))
    self.into = _linear(weights.noise)
    self.project = _linear(weights.condition)
    self.last = _linear(weights.modulation)
    self.out = _linear(weights.out)

  def velocity(self, x, hidden, time):
    """The velocity of noisy latents, given hidden states and one embedded timestep."""
    from torch.nn import functional

    def norm(x):
      return functional.rms_norm(x, x.shape[-1:], eps=1e-5)

    linear = functional.linear
    active = functional.silu(linear(hidden, self.project) + time)
    u = linear(x, self.into)
    for weight, modulation, gate, up, down in self.blocks:
      shift, scale, out_gate = linear(active, modulation).chunk(3, -1)
      m = norm(u) * weight * (1 + scale) + shift
      gated = functional.silu(linear(m, gate)) * linear(m, up)
      u = u + out_gate * linear(gated, down)
    shift, scale = linear(active, self.last).chunk(2, -1)
    return linear(norm(u) * (1 + scale) + shift, self.out)


def _tensor(x):
  import numpy as np
  import torch

  return torch.from_numpy(np.array(x, np.float32))


def _linear(x):
  """A matrix as torch.nn.Linear stores it."""
  return _tensor(x).reshape(x.shape[0], -1).T.contiguous()


def torch_frame(weights, noise, condition, steps, guidance) -> Callable[[], Any]:
  """A function that solves for the latents in torch, on one thread."""
  import numpy as np
  import torch

  torch.set_num_threads(1)
  head = TorchHead(weights)
  hidden = torch.cat([_tensor(condition), _tensor(guidance.negative)])
  times = _tensor(steps.time)
  start = _tensor(noise)
  guide = float(guidance.scale)
  names = ('alpha', 'sigma', 'decay', 'gain', 'slope')
  columns = [np.asarray(getattr(steps, name)).tolist() for name in names]
  table = list(zip(*columns))

  def run():
    x = start
    previous = torch.zeros_like(start)
    with torch.inference_mode():
      for time, (alpha, sigma, decay, gain, slope) in zip(times, table):
        both = head.velocity(torch.cat([x, x]), hidden, time)
        positive, negative = both.chunk(2)
        velocity = negative + guide * (positive - negative)
        x0 = alpha * x - sigma * velocity
        extrapolated = x0 + slope * (x0 - previous)
        x = decay * x + gain * extrapolated
        previous = x0
    return x.numpy()

  return run


def draw(*, width: int, steps: int, rows: int) -> tuple[Any, ...]:
  """(weights, noise, condition, steps, guidance) of a random head, float32, layers as a tuple; rows: frames at once."""
  import jax
  import jax.numpy as jnp
  import numpy as np

  from core import params as params_lib
  from vibevoice import diffusion
  from vibevoice.config import HeadConfig

  rng = np.random.default_rng(0)
  spec = diffusion.spec(HeadConfig(width=width))

  def draw(s):
    scale = np.float32(s.fan_in**0.5)
    return rng.standard_normal(s.shape, np.float32) / scale

  weights = jax.tree.map(draw, spec)
  weights = weights.replace(blocks=params_lib.unstack(weights.blocks))
  weights = jax.tree.map(jnp.asarray, weights)
  noise = rng.standard_normal((rows, 64), np.float32)
  hidden = rng.standard_normal((2, rows, width), np.float32)
  condition, negative = jnp.asarray(hidden)
  guidance = diffusion.Guidance(scale=jnp.float32(1.3), negative=negative)
  schedule = diffusion.solver_steps(weights, steps)
  return weights, jnp.asarray(noise), condition, schedule, guidance


def in_bfloat16(weights, noise, condition, steps, guidance) -> tuple[Any, ...]:
  """The same arguments in bfloat16; the solver's coefficients stay float32."""
  import jax.numpy as jnp

  from core import params as params_lib

  cast = params_lib.cast((weights, noise, condition), jnp.bfloat16)
  schedule = steps.replace(time=steps.time.astype(jnp.bfloat16))
  narrow = guidance.replace(negative=guidance.negative.astype(jnp.bfloat16))
  return *cast, schedule, narrow


def hoisted_bytes(*, width: int, steps: int, itemsize: int) -> int:
  """Bytes of weights that a frame reads in the hoisted order."""
  return itemsize * (steps * 36 + 15) * width**2
