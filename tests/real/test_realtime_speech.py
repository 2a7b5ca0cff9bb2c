"""Realtime speech that starts from a published preset: of its width, with a thin feed-forward, vocabulary and codec."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vibevoice
from tests.vibevoice import tiny
from vibevoice import realtime
from vibevoice.generation import realtime as generation
from vibevoice.inputs import presets

pytestmark = pytest.mark.real


def thin() -> vibevoice.RealtimeConfig:
  full, small = vibevoice.CONFIGS['Realtime-0.5B'], vibevoice.CONFIGS['tiny-realtime']
  narrow = {'mlp_width': 32, 'vocab': 300}
  return dataclasses.replace(
    full,
    lower=dataclasses.replace(full.lower, **narrow),
    upper=dataclasses.replace(full.upper, **narrow),
    acoustic=dataclasses.replace(small.acoustic, latent=64),
    head=dataclasses.replace(full.head, depth=1, mlp_ratio=1),
    negative=260,
  )


def test_speech_starts_from_a_published_preset(real_folder):
  config = thin()
  params = tiny.draw(realtime.spec(config))
  never = params.stop.replace(out=params.stop.out * 0, out_bias=jnp.full(1, -3.0))
  params = params.replace(stop=never)
  preset = presets.load(real_folder('real/en-Mike_man.pt'), config, dtype=jnp.float32)
  voice = generation.voice_of(preset)
  text = [5, 6, 7, 8, 9, 10, 11]
  frames = list(itertools.islice(generation.speech(params, config, voice, text, steps=2), 8))
  assert all(frame.shape == (tiny.HOP,) and np.isfinite(frame).all() for frame in frames)
  row = generation.Speech(params, config, voice, scale=1.5, steps=2, seed=0)
  row.read(text[:5])
  first, _ = row.speak()
  np.testing.assert_allclose(first, frames[0], atol=1e-5)
  np.testing.assert_array_equal(row.state.lower.length, [49 + 5])
  np.testing.assert_array_equal(row.state.upper.length, [148 + 5 + 1, 1 + 1])
  # The voice is heard: without the frames of the preset the first frame is another one.
  deaf = voice.replace(
    upper=jax.tree.map(jnp.zeros_like, voice.upper).replace(positions=voice.upper.positions, length=voice.upper.length)
  )
  row = generation.Speech(params, config, deaf, scale=1.5, steps=2, seed=0)
  row.read(text[:5])
  assert np.abs(row.speak()[0] - first).max() > 1e-3
