"""The GPU kernels of the diffusion head in jax's Mosaic GPU interpreter: float64 arithmetic, races."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels.head import arguments, mosaic_gpu
from tests.kernels import heads
from tests.kernels.interpreted import CHECKED, hopper
from tests.kernels.test_head import assert_close, unstacked

SIZE = heads.Size(width=128, mlp=192, latent=16, depth=1)
DEEP = heads.Size(width=64, mlp=64 * 10, latent=16, depth=1)  # more slots of F than a ring has


@pytest.mark.slow
@pytest.mark.parametrize('size,rows,dtype', [(SIZE, 3, jnp.bfloat16), (SIZE, 64, jnp.float16), (DEEP, 9, jnp.bfloat16)])
def test_feed_forward_equals_float64(size, rows, dtype):
  """The hidden values to half a unit of their type's last place, the product of those values to 1e-5."""
  block = jax.tree.map(lambda x: x[0], heads.weights(size, dtype=dtype).blocks)
  drawn = np.random.default_rng(0).standard_normal((rows, size.width))
  m = jnp.pad(jnp.asarray(drawn, dtype), ((0, -rows % 8), (0, 0)))
  with hopper():
    hidden = mosaic_gpu.gated(m, block.gate, block.up, interpret=CHECKED)
    parts = mosaic_gpu.product(hidden, block.down, interpret=CHECKED)
  inputs, gate, up, down = (np.asarray(x, np.float64) for x in (m, block.gate, block.up, block.down))
  opened = inputs @ gate
  exact = opened / (1 + np.exp(-opened)) * (inputs @ up)
  half = 0.5 * float(jnp.finfo(dtype).eps)
  np.testing.assert_allclose(np.asarray(hidden, np.float64), exact, rtol=1.01 * half, atol=1e-6)
  assert_close(parts.sum(0), np.asarray(hidden, np.float64) @ down, 1e-5)


@pytest.mark.slow
def test_whole_head_in_bfloat16():
  weights = heads.weights(SIZE, dtype=jnp.bfloat16)
  steps = heads.steps(SIZE, 3, dtype=jnp.bfloat16)
  noise, condition, guidance = heads.inputs(SIZE, 2, dtype=jnp.bfloat16)
  run = jax.jit(functools.partial(mosaic_gpu.run, eps=heads.EPS, interpret=CHECKED))
  with hopper():
    got = run(unstacked(weights), noise, condition, steps, guidance)
  assert got.dtype == jnp.bfloat16
  assert_close(got, heads.expected(weights, noise, condition, steps, guidance), 2e-2)


def test_refusals_say_why():
  weights = heads.weights(SIZE, dtype=jnp.bfloat16)
  steps = heads.steps(SIZE, 2, dtype=jnp.bfloat16)
  refuse = functools.partial(mosaic_gpu.refuse, eps=heads.EPS)
  noise, condition, guidance = heads.inputs(SIZE, 2, dtype=jnp.bfloat16)
  assert refuse(weights, noise, condition, steps, guidance) is None
  assert refuse(unstacked(weights), noise, condition, steps, guidance) is None
  small = arguments.quantised(weights)
  assert 'plain arrays' in refuse(small, noise, condition, steps, guidance)
  many = jnp.zeros((40, SIZE.latent))
  assert 'got 80' in refuse(weights, many, condition, steps, guidance)
  assert 'got float32' in refuse(weights, noise, condition.astype(jnp.float32), steps, guidance)
  odd = heads.weights(heads.Size(width=96, mlp=192, latent=16, depth=1), dtype=jnp.bfloat16)
  assert 'got 96 and 192' in refuse(odd, noise, condition, steps, guidance)
