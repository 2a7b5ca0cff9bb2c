"""Discriminators: what each sees, which weights each term moves, and that they learn to tell apart."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core import params as params_lib
from core.training import optim, steps
from tests.vibevoice import tiny
from vibevoice.training import adversarial, discriminators, reconstruction
from vibevoice.training.tokenizer_configs import Adversarial

CONFIG = tiny.CONFIG.acoustic
JUDGES = discriminators.Config(periods=(3,), windows=(64,), channels=2)
WAV = np.stack([tiny.clip(30 * tiny.HOP, seed) for seed in (0, 1)])


apply = jax.jit(discriminators.apply)


def judges():
  return params_lib.init(jax.random.key(0), discriminators.spec(JUDGES))


@pytest.mark.slow
def test_a_column_holds_every_pth_sample_and_a_band_its_frequencies():
  params = judges()
  base = apply(params, WAV)
  assert [len(features) for features in base] == [6, 5 * 5 + 1]
  moved = WAV.copy()
  moved[:, 1::3] += 0.1  # the second column of period 3
  by_period = apply(params, moved)[0]
  changed = [np.abs(a - b).max((0, 1, 3)) > 1e-7 for a, b in zip(by_period, base[0])]
  assert all(c.tolist() == [False, True, False] for c in changed)
  hertz = 0.625 * 12_000  # in the fourth of the five bands
  tone = np.sin(2 * np.pi * hertz * np.arange(WAV.shape[1]) / 24_000).astype(np.float32)
  first_layers = apply(params, np.stack([tone, tone]))[1][0:25:5]
  loudest = [float(jnp.abs(x[:, 2:-2]).max()) for x in first_layers]
  assert np.argmax(loudest) == 3


@pytest.mark.slow
def test_each_term_moves_its_own_weights_and_parts_add_up():
  params = adversarial.Params(tiny.params().acoustic, judges())
  batch = reconstruction.Batch(jnp.asarray(WAV), jnp.full(2, 0.5))

  def value(params, mine):
    loss = adversarial.loss(params, CONFIG, batch, jax.random.key(0))
    against = loss.metrics['adversarial'][0] + loss.metrics['features'][0]
    return jnp.where(mine, loss.metrics['discriminator'][0], against), loss

  run = jax.jit(jax.value_and_grad(value, has_aux=True))
  largest = lambda tree: max(float(jnp.abs(g).max()) for g in jax.tree.leaves(tree))
  (_, loss), grads = run(params, False)
  assert largest(grads.discriminators) == 0 and largest(grads.tokenizer) > 0
  _, grads = run(params, True)
  assert largest(grads.tokenizer) == 0 and largest(grads.discriminators) > 0
  assert loss.total == pytest.approx(sum(float(part) for part, _ in loss.metrics.values()), rel=1e-6)


def test_what_is_recorded_has_no_feature_distance():
  features = apply(judges(), WAV)
  np.testing.assert_array_equal(adversarial._feature_distance(features, features), 0)
  other = [[x + 0.5 for x in layers] for layers in features]
  layers = sum(len(part) - 1 for part in features)
  np.testing.assert_allclose(adversarial._feature_distance(other, features), 0.5 * layers, rtol=1e-4)


@pytest.mark.slow
def test_discriminators_learn_to_tell_noise_from_tones():
  tx = optim.optimizer(optim.Optim(lr=1e-2, schedule='constant'), 40, discriminators.spec(JUDGES))
  tone = np.sin(np.arange(WAV.shape[1]) / 7).astype(np.float32)[None].repeat(2, 0) / 10

  def loss(params, wav, key):
    return steps.Loss(jnp.sum(adversarial._told_apart(params, wav, tone)), jnp.float32(2))

  step, state = steps.make_step(loss, tx), steps.init_state(judges(), tx)
  values = []
  for i in range(40):
    state, metrics = step(state, None, jnp.asarray(WAV), jax.random.key(i))
    values.append(float(metrics['loss']))
  assert values[-1] < 0.2 * values[0]


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'weight': 1.0, 'periods': (), 'windows': ()}, 'expected a discriminator'),
    ({'periods': (2, 0)}, 'periods=0'),
    ({'windows': (510,)}, 'windows=510: expected 1 or more samples, windows a multiple of 4'),
  ],
)
def test_impossible_discriminators(change, message):
  with pytest.raises(ValueError, match=message):
    Adversarial(**change)
