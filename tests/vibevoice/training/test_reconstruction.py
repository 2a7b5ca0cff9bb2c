"""What the acoustic tokenizer learns."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.vibevoice import tiny
from vibevoice.config import SAMPLE_RATE
from vibevoice.training import reconstruction

CONFIG, HOP = tiny.CONFIG.acoustic, tiny.HOP
SIZE, MELS = 512, 40


def tone(hertz: float, samples: int = 2048) -> np.ndarray:
  return np.sin(2 * np.pi * hertz * np.arange(samples) / SAMPLE_RATE).astype(np.float32)


def test_a_tone_is_loudest_at_its_mel():
  spectra = [np.asarray(reconstruction.log_mel(tone(f), SIZE, MELS)).mean(0) for f in (500.0, 2000.0)]
  low, high = (int(s.argmax()) for s in spectra)
  # Slaney's scale: 66.7 Hz a mel below 1 kHz, of 50.4 mels up to 12 kHz in all, shared by 41 steps.
  whole = 15 + np.log(12) * 27 / np.log(6.4)
  for index, mel in ((low, 500 / (200 / 3)), (high, 15 + np.log(2) * 27 / np.log(6.4))):
    assert abs(index + 1 - mel / whole * (MELS + 1)) <= 1


def test_ten_times_louder_is_one_more_and_equal_clips_have_no_distance():
  noise = tiny.clip(2048)
  clips = jnp.stack([noise, 10 * noise])
  louder = reconstruction.log_mel(clips[1], SIZE, MELS) - reconstruction.log_mel(clips[0], SIZE, MELS)
  np.testing.assert_allclose(louder, 1, atol=1e-4)
  np.testing.assert_allclose(reconstruction.mel_distance(clips, clips[:1]), [0, 1], atol=1e-4)


def test_signal_to_noise_is_in_decibels():
  clip = tiny.clip(1000)
  assert reconstruction.noise_ratio(clip, 0.9 * clip) == pytest.approx(20, abs=1e-4)
  assert reconstruction.noise_ratio(clip, np.zeros_like(clip)) == pytest.approx(0, abs=1e-6)


@pytest.mark.slow
def test_parts_add_up_and_the_gradient_reaches_both_halves():
  wav = jnp.asarray(tiny.clip(2 * 16 * HOP).reshape(2, -1))
  batch = reconstruction.Batch(wav, jnp.full(2, 0.5))
  weights = reconstruction.Weights(mel=3.0, wave=2.0, latent=0.5)

  def total(params):
    loss = reconstruction.loss(params, CONFIG, batch, jax.random.key(0), weights=weights)
    return loss.total, loss.metrics

  (value, metrics), grads = jax.value_and_grad(total, has_aux=True)(tiny.params().acoustic)
  assert value == pytest.approx(sum(float(part) for part, _ in metrics.values()), rel=1e-6)
  means = np.asarray(reconstruction.tokenizer.encode(tiny.params().acoustic, CONFIG, wav), np.float64)
  assert metrics['latent'][0] == pytest.approx(0.5 * np.mean(means**2), rel=1e-5)
  for half in (grads.encoder, grads.decoder):
    assert all(np.isfinite(g).all() and np.abs(g).max() > 0 for g in jax.tree.leaves(half))
