"""Random diffusion heads, and their arithmetic in float64, one row and one step at a time."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from kernels.head.arguments import Block, Guidance, Params, Steps
from kernels.int8 import Int8

EPS = 1e-5


@dataclasses.dataclass(frozen=True)
class Size:
  """Sizes of a head."""

  width: int = 128
  mlp: int = 384
  latent: int = 16
  depth: int = 2


def weights(size: Size, seed: int = 0, dtype=np.float32) -> Params:
  """Weights without zeros, which would hide faults; layers are stacked."""
  rng = np.random.default_rng(seed)
  d, f, c, n = size.width, size.mlp, size.latent, size.depth

  def draw(*shape, inputs):
    return jnp.asarray(rng.standard_normal(shape) / np.sqrt(inputs), dtype)

  block = Block(
    norm=1 + draw(n, d, inputs=16),
    modulation=draw(n, d, 3, d, inputs=4 * d),
    gate=draw(n, d, f, inputs=d),
    up=draw(n, d, f, inputs=d),
    down=draw(n, f, d, inputs=f),
  )
  return Params(
    noise=draw(c, d, inputs=c),
    condition=draw(d, d, inputs=d),
    time_in=draw(8, d, inputs=8),
    time_out=draw(d, d, inputs=d),
    blocks=block,
    modulation=draw(d, 2, d, inputs=4 * d),
    out=draw(d, c, inputs=d),
  )


def steps(size: Size, count: int, seed: int = 1, dtype=np.float32) -> Steps:
  """Coefficients of a decreasing noise level; the last step returns x0, the first and last are of first order."""
  rng = np.random.default_rng(seed)
  noise = np.append(np.geomspace(20, 0.3, count), 0.0)
  alpha = 1 / np.sqrt(1 + noise**2)
  sigma = noise * alpha
  slope = np.full(count, 0.4)
  slope[[0, -1]] = 0
  ratio = sigma[1:] / sigma[:-1]
  gain = alpha[1:] - ratio * alpha[:-1]
  time = rng.standard_normal((count, size.width))
  arrays = {'alpha': alpha[:-1], 'sigma': sigma[:-1], 'decay': ratio, 'gain': gain, 'slope': slope}
  as_float32 = {name: jnp.asarray(x, jnp.float32) for name, x in arrays.items()}
  return Steps(time=jnp.asarray(time, dtype), **as_float32)


def inputs(size: Size, rows: int, seed: int = 2, dtype=np.float32):
  """(noise [R, C], condition [R, D], guidance with a scale for each row)."""
  rng = np.random.default_rng(seed)
  noise, condition, negative = (
    jnp.asarray(rng.standard_normal((rows, width)), dtype) for width in (size.latent, size.width, size.width)
  )
  scale = jnp.asarray(rng.uniform(1, 3, rows), jnp.float32)
  return noise, condition, Guidance(scale=scale, negative=negative)


def _float64(x) -> np.ndarray:
  if isinstance(x, Int8):
    values = _float64(x.values)
    return values * _float64(x.scale).repeat(values.shape[-1] // x.scale.shape[-1], -1)
  return np.asarray(x).astype(np.float64)


def _silu(x):
  return x / (1 + np.exp(-x))


def _normed(x):
  return x / np.sqrt(np.mean(x * x) + EPS)


def velocity(p: Params, x: np.ndarray, hidden: np.ndarray, time: np.ndarray) -> np.ndarray:
  """The velocity [C] of one row's noisy latent [C], in float64."""
  active = _silu(hidden @ _float64(p.condition) + time)
  u = x @ _float64(p.noise)
  blocks = p.blocks
  for i in range(blocks.norm.shape[0]):
    norm, modulation, gate, up, down = (
      _float64(leaf)[i] for leaf in (blocks.norm, blocks.modulation, blocks.gate, blocks.up, blocks.down)
    )
    shift, scale, out_gate = (active @ modulation[:, part] for part in range(3))
    m = _normed(u) * norm * (1 + scale) + shift
    u = u + out_gate * ((_silu(m @ gate) * (m @ up)) @ down)
  final = _float64(p.modulation)
  return (_normed(u) * (1 + active @ final[:, 1]) + active @ final[:, 0]) @ _float64(p.out)


def expected(p: Params, noise, condition, at: Steps, guidance: Guidance | None) -> np.ndarray:
  """The latents [R, C] in float64: row by row, step by step, branch by branch."""
  rows = []
  for row, x in enumerate(_float64(noise)):
    previous = np.zeros_like(x)
    for k, time in enumerate(_float64(at.time)):
      v = velocity(p, x, _float64(condition[row]), time)
      if guidance is not None:
        other = velocity(p, x, _float64(guidance.negative[row]), time)
        v = other + float(guidance.scale[row]) * (v - other)
      x0 = float(at.alpha[k]) * x - float(at.sigma[k]) * v
      x = float(at.decay[k]) * x + float(at.gain[k]) * (x0 + float(at.slope[k]) * (x0 - previous))
      previous = x0
    rows.append(x)
  return np.stack(rows)
