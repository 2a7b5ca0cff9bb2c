"""Voice presets: a Realtime model continues from a preset exactly as from the voice that the preset was made of."""

import jax.numpy as jnp
import numpy as np
import pytest

import vibevoice
from core.files.store import CheckpointError
from core.past.rows import grown
from vibevoice import realtime
from vibevoice.inputs import presets

CONFIG = vibevoice.CONFIGS['tiny-realtime']
RNG = np.random.default_rng(0)
TOKENS = RNG.integers(0, 256, (1, 6)).astype(np.int32)
FRAMES = RNG.normal(size=(1, 9, CONFIG.acoustic.latent)).astype(np.float32)


@pytest.fixture(scope='module')
def params(drawn):
  return drawn(realtime.spec(CONFIG))


def published(reading):
  """What a file holds of one stream that the model has just read."""
  cache = reading.cache
  filled = int(cache.length)
  layers = {'key_cache': cache.k, 'value_cache': cache.v}
  stored = {name: [np.asarray(layer[..., :filled, :]) for layer in stack] for name, stack in layers.items()}
  return {'last_hidden_state': np.asarray(reading.hidden), 'past_key_values': stored}


@pytest.fixture(scope='module')
def tree(params):
  """A voice of five frames and their transcript, and the one token of the negative streams."""

  def streams(frames, tokens):
    lower = realtime.lower(params, CONFIG, tokens, cache=16)
    cache = 16
    if frames is not None:
      cache = realtime.upper_speech(params, CONFIG, frames, cache=cache).cache
    upper = realtime.upper_text(params, CONFIG, lower.hidden, cache=cache)
    return published(lower), published(upper)

  lower, upper = streams(FRAMES[:, :5], TOKENS)
  upper['last_hidden_state'] = np.zeros((1, 11, CONFIG.upper.width), np.float32)  # only the text's is at hand
  negative = streams(None, np.array([[CONFIG.negative]], np.int32))
  return {'lm': lower, 'tts_lm': upper, 'neg_lm': negative[0], 'neg_tts_lm': negative[1]}


@pytest.mark.slow
def test_reading_continues_where_the_voice_ends(params, tree):
  preset = presets.from_tree(tree, CONFIG)
  assert preset.upper.cache.capacity == 11 and preset.negative_upper.cache.capacity == 1
  cache = grown(preset.upper.cache, 16)
  got = realtime.upper_speech(params, CONFIG, FRAMES[:, 5:], cache=cache).hidden

  below = realtime.lower(params, CONFIG, TOKENS).hidden
  voice = realtime.upper_speech(params, CONFIG, FRAMES[:, :5], cache=16)
  text = realtime.upper_text(params, CONFIG, below, cache=voice.cache)
  want = realtime.upper_speech(params, CONFIG, FRAMES[:, 5:], cache=text.cache).hidden
  np.testing.assert_allclose(got, want, atol=1e-5)
  np.testing.assert_array_equal(preset.lower.hidden, below)


def test_dtypes_are_those_asked_for(tree):
  half = presets.from_tree(tree, CONFIG, dtype=jnp.bfloat16)
  assert half.lower.cache.k.dtype == half.lower.hidden.dtype == jnp.bfloat16
  assert presets.from_tree(tree, CONFIG).lower.cache.k.dtype == jnp.float32


def test_a_preset_of_another_model_is_refused(tree):
  def refused(changed, match):
    with pytest.raises(CheckpointError, match=match):
      presets.from_tree(changed, CONFIG, where='voice.pt')

  refused({name: tree[name] for name in ('lm', 'tts_lm', 'neg_lm')}, "voice.pt: neg_tts_lm: 'neg_tts_lm' is missing")
  refused(tree | {'tts_lm': tree['lm']}, 'tts_lm: key_cache of 1 layers; this model has 2')
  wide = tree['lm'] | {'last_hidden_state': np.zeros((1, 6, 7))}
  refused(tree | {'lm': wide}, r'lm: last_hidden_state: shape \(1, 6, 7\); this model expects \(1, 6, 64\)')
  past = tree['lm']['past_key_values']
  short = past | {'value_cache': [layer[:, :, 1:] for layer in past['value_cache']]}
  refused(tree | {'lm': tree['lm'] | {'past_key_values': short}}, r'value_cache\[0\]: shape \(1, 2, 5, 24\)')
