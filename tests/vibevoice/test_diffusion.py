"""Noise schedule, solver and diffusion head against published numbers and formulas in float64."""

import fractions

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core import params as weights
from vibevoice import diffusion
from vibevoice.config import CONFIGS
from vibevoice.diffusion import schedule as schedules
from vibevoice.diffusion.schedule import Schedule

HEAD = CONFIGS['tiny'].head


def redrawn(seed: int = 0):
  """A head without zeros in it, which would hide faults."""
  rng = np.random.default_rng(seed)
  draw = lambda s: jnp.asarray(rng.standard_normal(s.shape) / np.sqrt(s.fan_in), jnp.float32)
  return jax.tree.map(draw, diffusion.spec(HEAD))


def test_published_schedule():
  beta, level = schedules.betas(), schedules.signal_levels()
  np.testing.assert_allclose(beta[[0, 998, 999]], [4.1284e-5, 0.7499994, 0.999], rtol=1e-5)
  published = {
    0: 0.9999587,
    250: 0.845888,
    500: 0.492285,
    750: 0.1431787,
    899: 0.02409172,
    998: 2.428766e-6,
    999: 2.428735e-9,
  }
  np.testing.assert_allclose(level[list(published)], list(published.values()), rtol=1e-6)


@pytest.mark.parametrize('steps', [1, 2, 5, 10, 14, 15, 20])
def test_timesteps_are_rounded_half_to_even(steps):
  exact = [round(fractions.Fraction(999 * k, steps)) for k in range(steps, 0, -1)]
  assert schedules.timesteps(steps).tolist() == exact


def test_published_grids():
  assert schedules.timesteps(10).tolist() == [999, 899, 799, 699, 599, 500, 400, 300, 200, 100]
  five = [20291.3, 3.10373, 1.390751, 0.7402812, 0.3374607, 0]
  np.testing.assert_allclose(schedules.sigmas(5), five, rtol=1e-6)
  twenty = schedules.sigmas(20)
  np.testing.assert_allclose(
    twenty[[1, 2, 9, 10, 11, 19, 20]], [12.80727, 6.364592, 1.184081, 1.015551, 0.8685832, 0.0913476, 0], rtol=1e-6
  )


@pytest.mark.parametrize('steps', [0, -1, 1000])
def test_impossible_numbers_of_steps(steps):
  with pytest.raises(ValueError, match=f'steps={steps}'):
    Schedule.of(steps)


def transcription(velocity, x, steps):
  """The published update rules in float64, one branch a case."""
  sigma = schedules.sigmas(steps)
  alpha = 1 / np.sqrt(1 + sigma**2)
  s = sigma * alpha
  history = []
  for k, t in enumerate(schedules.timesteps(steps)):
    x0 = alpha[k] * x - s[k] * velocity(x, t)
    if k == steps - 1:
      break
    step = np.log(alpha[k + 1] / s[k + 1]) - np.log(alpha[k] / s[k])
    e = np.exp(-step) - 1
    estimate = x0
    if history:
      before = np.log(alpha[k] / s[k]) - np.log(alpha[k - 1] / s[k - 1])
      estimate = x0 + (x0 - history[-1]) / (2 * before / step)
    x = s[k + 1] / s[k] * x - alpha[k + 1] * e * estimate
    history.append(x0)
  return x0


@pytest.mark.parametrize('steps', [1, 2, 3, 5, 10, 20])
def test_solver_equals_its_formulas(steps):
  rng = np.random.default_rng(steps)
  matrix = rng.standard_normal((6, 6)) / 3
  noise = rng.standard_normal((4, 6))
  schedule = Schedule.of(steps)
  linear = lambda x, t: jnp.tanh(x @ jnp.asarray(matrix, jnp.float32)) * (1 + t / 1000)
  got = diffusion.solve(linear, jnp.asarray(noise, jnp.float32), schedule, schedule.timesteps)
  want = transcription(lambda x, t: np.tanh(x @ matrix) * (1 + t / 1000), noise, steps)
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5 * np.abs(want).max())


def test_solver_recovers_a_known_latent():
  """With the exact velocity towards one latent, any number of steps ends at it."""
  target = jnp.asarray(np.random.default_rng(0).standard_normal((3, 5)), jnp.float32)
  noise = jnp.asarray(np.random.default_rng(1).standard_normal((3, 5)), jnp.float32)
  for steps in (1, 4, 10):
    schedule = Schedule.of(steps)
    towards = lambda x, at: (at[0] * x - target) / at[1]
    got = diffusion.solve(towards, noise, schedule, (schedule.alpha, schedule.sigma))
    np.testing.assert_allclose(got, target, atol=2e-5)


def drawn(*shape, seed: int = 0):
  return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def test_a_new_head_predicts_zero():
  params = diffusion.init(jax.random.key(0), HEAD)
  noisy, condition = drawn(3, HEAD.latent), drawn(3, HEAD.width)
  assert not np.any(diffusion.velocity(params, HEAD, noisy, jnp.asarray([0.0, 500.0, 999.0]), condition))


def head_formula(p, noisy, t, h):
  """The head in float64, from the sheet of its formulas, for one row."""
  p = jax.tree.map(lambda x: np.asarray(x, np.float64), p)
  silu = lambda x: x / (1 + np.exp(-x))
  norm = lambda x: x / np.sqrt(np.mean(x * x) + 1e-5)
  half = p.time_in.shape[0] // 2
  angle = t * np.exp(-np.log(10000) * np.arange(half) / half)
  time = silu(np.concatenate([np.cos(angle), np.sin(angle)]) @ p.time_in) @ p.time_out
  c = silu(h @ p.condition + time)
  u = noisy @ p.noise
  for i in range(HEAD.depth):
    shift, scale, gate = (c @ p.blocks.modulation[i][:, part] for part in range(3))
    m = norm(u) * p.blocks.norm[i] * (1 + scale) + shift
    u = u + gate * ((silu(m @ p.blocks.gate[i]) * (m @ p.blocks.up[i])) @ p.blocks.down[i])
  shift, scale = (c @ p.modulation[:, part] for part in range(2))
  return (norm(u) * (1 + scale) + shift) @ p.out


def test_head_and_guided_sampling_equal_their_formulas():
  params = redrawn()
  rng = np.random.default_rng(5)
  noise = rng.standard_normal((2, HEAD.latent))
  condition, negative = rng.standard_normal((2, 2, HEAD.width))
  scales = np.array([1.3, 2.5])

  def guided(x, t):
    rows = []
    for i, scale in enumerate(scales):
      positive = head_formula(params, x[i], t, condition[i])
      other = head_formula(params, x[i], t, negative[i])
      rows.append(other + scale * (positive - other))
    return np.stack(rows)

  want = transcription(guided, noise, 4)
  f32 = lambda x: jnp.asarray(x, jnp.float32)
  guidance = diffusion.Guidance(f32(scales), f32(negative))
  steps = diffusion.solver_steps(params, 4)
  got = diffusion.diffusion_head(params, f32(noise), f32(condition), steps, guidance=guidance)
  np.testing.assert_allclose(got, want, atol=2e-5 * np.abs(want).max())
  v = diffusion.velocity(params, HEAD, f32(noise), f32([3.0, 700.0]), f32(condition))
  formula = [head_formula(params, x, t, h) for x, t, h in zip(noise, (3.0, 700.0), condition)]
  np.testing.assert_allclose(v, formula, atol=1e-5 * np.abs(formula).max())


def test_scale_one_is_no_guidance_and_rows_do_not_mix():
  params = redrawn(2)
  noise = drawn(5, HEAD.latent)
  condition, negative = drawn(2, 5, HEAD.width, seed=1)
  steps = diffusion.solver_steps(params, 5)
  alone = diffusion.diffusion_head(params, noise, condition, steps)
  one = diffusion.diffusion_head(params, noise, condition, steps, guidance=diffusion.Guidance(jnp.float32(1), negative))
  np.testing.assert_allclose(one, alone, atol=2e-5)
  row = diffusion.diffusion_head(params, noise[2:3], condition[2:3], steps)
  np.testing.assert_allclose(row[0], alone[2], atol=1e-5)


def test_unstacked_blocks_give_the_same():
  params = redrawn(3)
  noisy, condition = jnp.ones((2, HEAD.latent)), jnp.ones((2, HEAD.width))
  unstacked = params.replace(blocks=weights.unstack(params.blocks))
  times = jnp.asarray([10.0, 20.0])
  want = diffusion.velocity(params, HEAD, noisy, times, condition)
  np.testing.assert_allclose(diffusion.velocity(unstacked, HEAD, noisy, times, condition), want, atol=1e-6)


def test_published_size():
  spec = diffusion.spec(CONFIGS['1.5B'].head)
  assert weights.count(spec) == 123_279_360
  assert weights.count(diffusion.spec(CONFIGS['7B'].head)) == 669_333_504
