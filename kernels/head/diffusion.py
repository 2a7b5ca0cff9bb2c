"""`diffusion_head(...)`: checks shapes, then runs one of the implementations.

R rows   C latent   D width
"""

import jax

from kernels import dispatch
from kernels.dispatch import Implementation
from kernels.head import mosaic_gpu, pallas_tpu, reference, xla
from kernels.head.arguments import Guidance, Params, Steps

TABLE = dispatch.Table(
  'diffusion_head',
  {
    'reference': Implementation(reference.run),
    'xla': Implementation(xla.run),
    'pallas_tpu': Implementation(pallas_tpu.run, platform='tpu', refuse=pallas_tpu.refuse, decline=pallas_tpu.decline),
    # By name only: it has not run on a GPU.
    'mosaic_gpu': Implementation(mosaic_gpu.run, refuse=mosaic_gpu.refuse),
  },
)


def diffusion_head(
  weights: Params,
  noise: jax.Array,
  condition: jax.Array,
  steps: Steps,
  *,
  guidance: Guidance | None = None,
  eps: float = 1e-5,
  implementation: str | None = None,
) -> jax.Array:
  """Latents [R, C] from noise [R, C] of variance 1, given hidden states [R, D]; no row sees another.

  weights: arrays; `xla` and `reference` take `kernels.pieces.Streamed` too, and they and `pallas_tpu` feed-forwards of
  `kernels.int8.Int8`. guidance: None skips the negative branch, half the work. implementation: None picks by platform;
  or a name in `TABLE`.
  Raises ValueError for an unknown implementation or shapes that do not fit, NotImplementedError for a named
  implementation that cannot compute these arguments.
  """
  _check_shapes(weights, noise, condition, steps, guidance)
  arrays = (weights, noise, condition, steps, guidance)
  return TABLE.call(*arrays, implementation=implementation, default='xla', eps=eps)


def _check_shapes(weights: Params, noise, condition, steps: Steps, guidance: Guidance | None) -> None:
  latent, width = weights.noise.shape
  rows = noise.shape[0]
  given = {'noise': noise.shape, 'condition': condition.shape, 'time': steps.time.shape[1:]}
  expected = {'noise': (rows, latent), 'condition': (rows, width), 'time': (width,)}
  if guidance is not None:
    given['negative'] = guidance.negative.shape
    expected['negative'] = (rows, width)
  if given != expected:
    raise ValueError(f'diffusion_head: shapes {given} do not fit the weights; expected {expected}')
