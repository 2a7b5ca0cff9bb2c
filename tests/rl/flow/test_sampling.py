"""Schedules, steps and densities of flow samplers, against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rl.flow.sampling import (
  Noise,
  Schedule,
  Step,
  dynamic_shift,
  log_prob,
  moments,
  normalised_log_ratio,
  sample,
  shifted,
  window,
)
from rl.flow.sampling.steps import divergence

FORMS = [Noise('flow', 0.7), Noise('dance', 0.3)]
MEAN, SPREAD = 1.5, 0.5  # of Gaussian data
PUBLISHED = [1, 0.986301, 0.971831, 0.956522, 0.940299, 0.923077, 0.904762, 0.885246, 0.864407, 0.842105, 0.818182]


def gaussian_velocity(x, time):
  """E[x_1 − x_0 | x_t = x] of data N(MEAN, SPREAD²)."""
  t = time.reshape(-1, *(1,) * (x.ndim - 1))
  variance = (1 - t) ** 2 * SPREAD**2 + t**2
  return (t - (1 - t) * SPREAD**2) / variance * (x - (1 - t) * MEAN) - MEAN


def marginal(sigma):
  """(mean, variance) of x_σ."""
  return (1 - sigma) * MEAN, (1 - sigma) ** 2 * SPREAD**2 + sigma**2


def test_published_schedule():
  schedule = shifted(25, 3.0)
  np.testing.assert_allclose(schedule.sigmas[:11], PUBLISHED, atol=5e-7)
  ticks = np.rint(1000 * schedule.times).astype(int).tolist()
  assert ticks[:8] == [1000, 986, 971, 956, 940, 923, 904, 885] and ticks[-4:] == [363, 290, 206, 111]


@pytest.mark.parametrize('patches, mu', [(1024, 0.63), (2025, 0.7994), (4096, 1.15)])
def test_dynamic_shift(patches, mu):
  sigmas = np.array(dynamic_shift(10, patches).sigmas)
  u = 1 - np.arange(10) / 10
  np.testing.assert_allclose(sigmas[:-1], np.exp(mu) / (np.exp(mu) + 1 / u - 1), atol=1e-4)
  assert sigmas[-1] == 0


@pytest.mark.parametrize('sigmas', [(1.0, 0.0), (0.9, 0.5, 0.0), (1.0, 0.5, 0.6, 0.0), (1.0, 0.5, 0.1)])
def test_schedules_fall_from_one_to_zero(sigmas):
  with pytest.raises(ValueError, match='fall from 1 to 0'):
    Schedule(sigmas)


@pytest.mark.parametrize('noise', FORMS, ids=lambda n: n.form)
def test_a_thousand_steps_keep_the_marginals(noise):
  """The velocity of Gaussian data is affine, so mean and variance pass through the steps without sampling."""
  schedule = shifted(1000, 3.0, rounded=False)
  levels = schedule.levels

  def advance(moment, index):
    mean, variance = moment
    step = Step.at(levels, jnp.full(2, index))
    x = jnp.array([0.0, 1.0])
    v = gaussian_velocity(x, step.sigma)
    (at_zero, at_one), deviation = moments(x, v, step, noise)
    slope = at_one - at_zero
    moved = (at_zero + slope * mean, slope**2 * variance + deviation[0] ** 2)
    return moved, moved

  _, (means, variances) = jax.lax.scan(advance, (jnp.float32(0), jnp.float32(1)), jnp.arange(1000))
  for level in (0.75, 0.5, 0.25, 0.1):
    index = int(np.searchsorted(-levels, -level)) - 1
    mean, variance = marginal(float(levels[index + 1]))
    np.testing.assert_allclose(means[index], mean, rtol=0.01)
    np.testing.assert_allclose(variances[index], variance, rtol=0.01)


def test_samples_have_the_marginals_of_the_data():
  keys = jax.random.split(jax.random.key(0), 64)
  x = jax.random.normal(jax.random.key(1), (64, 32, 16))
  program = jax.jit(lambda x: sample(gaussian_velocity, x, shifted(40, 3.0), noise=Noise(), keys=keys))
  clean = np.asarray(program(x).clean)
  assert abs(clean.mean() - MEAN) < 0.02
  assert abs(clean.std() - SPREAD) < 0.05


def float64_logp(x, v, following, index, schedule, noise):
  """The sheet's formulas in float64."""
  sigma, after = schedule.sigmas[index], schedule.sigmas[index + 1]
  d = after - sigma
  if noise.form == 'flow':
    w = noise.level * np.sqrt(sigma / (1 - (schedule.sigmas[1] if sigma == 1 else sigma)))
    mean = x * (1 + w**2 * d / (2 * sigma)) + v * (1 + w**2 * (1 - sigma) / (2 * sigma)) * d
    scale = w * np.sqrt(-d)
  else:
    score = -(x - (1 - sigma) * (x - sigma * v)) / sigma**2
    mean = x + v * d - 0.5 * noise.level**2 * score * d
    scale = noise.level * np.sqrt(-d)
  return np.mean(-((following - mean) ** 2) / (2 * scale**2) - np.log(scale) - 0.5 * np.log(2 * np.pi))


@pytest.mark.parametrize('noise', FORMS, ids=lambda n: n.form)
def test_log_probabilities_of_first_middle_and_last_step(noise):
  schedule = shifted(25)
  x = jax.random.normal(jax.random.key(2), (3, 4, 4, 2))
  path = sample(gaussian_velocity, x, schedule, noise=noise, keys=jax.random.split(jax.random.key(3), 3))
  states = np.asarray(path.states, np.float64)
  for index in (0, 12, 24):
    v = np.asarray(gaussian_velocity(path.states[index], jnp.full(3, schedule.times[index])), np.float64)
    for row in range(3):
      expected = float64_logp(states[index, row], v[row], states[index + 1, row], index, schedule, noise)
      assert abs(float(path.logp[index, row]) - expected) < 1e-5


@pytest.mark.parametrize('noise', FORMS, ids=lambda n: n.form)
def test_scoring_a_step_gives_the_log_probability_of_sampling(noise):
  schedule = shifted(25)
  x = jax.random.normal(jax.random.key(2), (3, 8))
  path = sample(gaussian_velocity, x, schedule, noise=noise, keys=jax.random.split(jax.random.key(3), 3))
  for index in range(25):
    step = Step.at(schedule.levels, jnp.full(3, index))
    v = gaussian_velocity(path.states[index], jnp.full(3, schedule.times[index]))
    ratio = jnp.exp(log_prob(path.states[index + 1], *moments(path.states[index], v, step, noise)) - path.logp[index])
    np.testing.assert_allclose(ratio, 1, atol=1e-6)


def test_noise_of_a_row_depends_on_its_key_alone():
  schedule = shifted(5)
  keys = jax.random.split(jax.random.key(3), 4)
  x = jnp.ones((4, 6))
  whole = sample(gaussian_velocity, x, schedule, noise=Noise(), keys=keys).clean
  part = sample(gaussian_velocity, x[2:], schedule, noise=Noise(), keys=keys[2:]).clean
  np.testing.assert_allclose(whole[2:], part, atol=1e-6)


def test_normalised_ratio_is_the_corrected_log_ratio():
  key = jax.random.split(jax.random.key(0), 3)
  old = jax.random.normal(key[0], (5, 64))
  mean = old + 0.01 * jax.random.normal(key[1], old.shape)
  deviation = jnp.array([0.05, 0.1, 0.3, 0.7, 1.0])
  following = old + deviation[:, None] * jax.random.normal(key[2], old.shape)
  delta = log_prob(following, mean, deviation) - log_prob(following, old, deviation)
  corrected = deviation * (delta + divergence(mean, old, deviation))
  np.testing.assert_allclose(normalised_log_ratio(following, old, mean, deviation), corrected, atol=2e-6)


def test_mixed_sampler_is_deterministic_outside_its_window():
  schedule, keys = shifted(10), jax.random.split(jax.random.key(0), 2)
  x = jnp.ones((2, 6))  # both rows start from one noise
  inside = window(10, 3, iteration=50)
  assert np.flatnonzero(inside).tolist() == [2, 3, 4]
  path = sample(gaussian_velocity, x, schedule, noise=Noise(), keys=keys, stochastic=inside)
  same = np.all(np.asarray(path.states[:, 0] == path.states[:, 1]), -1)
  assert same.tolist() == [True, True, True] + [False] * 8
  assert np.array_equal(np.asarray(path.logp[:, 0]) != 0, inside)


def test_window_stops_before_the_last_step():
  assert np.flatnonzero(window(10, 3, iteration=10_000)).tolist() == [6, 7, 8]
  with pytest.raises(ValueError, match='window=10'):
    window(10, 10, iteration=0)


def test_without_noise_the_path_is_eulers():
  schedule = shifted(4, rounded=False)
  path = sample(gaussian_velocity, jnp.ones((1, 2)), schedule)
  x = np.ones((1, 2))
  for sigma, after in zip(schedule.sigmas, schedule.sigmas[1:]):
    x = x + np.asarray(gaussian_velocity(jnp.asarray(x), jnp.array([sigma]))) * (after - sigma)
  np.testing.assert_allclose(path.states[-1], x, rtol=1e-5)
  assert not np.any(path.logp)
