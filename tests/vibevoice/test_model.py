"""What goes into the language model at slots, and what comes out of it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit

import vibevoice
from core.past.cache import Cache
from vibevoice import connector, model, realtime, scaling

TTS, REALTIME = vibevoice.CONFIGS['tiny'], vibevoice.CONFIGS['tiny-realtime']
RNG = np.random.default_rng(0)
S = TTS.slot
TOKENS = np.array([[1, 257, S, S, 258, 2, 257, S], [1, S, 2, 3, 4, 5, S, 6]], np.int32)
LATENTS = RNG.normal(size=(2, 3, TTS.acoustic.latent)).astype(np.float32)
SEMANTIC = RNG.normal(size=(2, 3, TTS.semantic.latent)).astype(np.float32)
SPOKEN = np.array([[False, False, True], [False, True, False]])


@pytest.fixture(scope='module')
def params(drawn):
  return drawn(model.spec(TTS))


@pytest.fixture(scope='module')
def realtime_params(drawn):
  return drawn(realtime.spec(REALTIME))


def test_a_connector_is_two_projections_and_a_norm(params):
  p = jax.tree.map(lambda w: w.astype(np.float64), params.acoustic_connector)
  hidden = LATENTS @ p.up + p.up_bias
  hidden = hidden / np.sqrt((hidden**2).mean(-1, keepdims=True) + 1e-6) * p.norm
  want = hidden @ p.out + p.out_bias
  np.testing.assert_allclose(connector.apply(params.acoustic_connector, LATENTS), want, atol=1e-5)


def test_slots_take_the_frames_of_their_row_in_order(params):
  x = model.embed(params, TTS, TOKENS, model.Frames(LATENTS, semantic=SEMANTIC, spoken=SPOKEN))
  prompt = model.embed_frames(params, LATENTS)
  said = model.embed_frames(params, LATENTS, SEMANTIC)
  table = params.language.embed
  np.testing.assert_allclose(x[0, 2:4], prompt[0, :2], atol=1e-6)
  np.testing.assert_allclose(x[0, 7], said[0, 2], atol=1e-6)
  np.testing.assert_allclose(x[1, 1], prompt[1, 0], atol=1e-6)
  np.testing.assert_allclose(x[1, 6], said[1, 1], atol=1e-6)
  text = TOKENS != S
  np.testing.assert_array_equal(np.asarray(x)[text], table[TOKENS][text])
  np.testing.assert_array_equal(model.embed(params, TTS, TOKENS), table[TOKENS])


def test_teacher_forcing_is_generation_in_one_call(params):
  """Prefill, then frame by frame with a cache, gives the hidden states of one call over the whole sequence."""
  frames = model.Frames(LATENTS, semantic=SEMANTIC, spoken=SPOKEN)
  whole = model.apply(params, TTS, TOKENS, frames)
  assert whole.logits.shape == (2, 8, TTS.language.vocab)
  x = model.embed(params, TTS, TOKENS, frames)
  forward = functools.partial(vibevoice.model.decoder.forward, params.language, TTS.language)
  out = forward(x[:, :6], cache=16)
  assert isinstance(out.cache, Cache)
  hidden = [out.hidden]
  for t in (6, 7):
    out = forward(x[:, t : t + 1], cache=out.cache)
    hidden.append(out.hidden)
  np.testing.assert_allclose(jnp.concatenate(hidden, 1), whole.hidden, atol=2e-5)


def test_taps_reach_the_language_model(params):
  def double(site, layer, x):
    return 2 * x if site == 'mlp_out' else x

  kept = model.apply(params, TTS, TOKENS, keep=('resid_in',)).kept
  np.testing.assert_array_equal(kept['resid_in'][0], params.language.embed[TOKENS])
  edited = model.apply(params, TTS, TOKENS, edit=double).hidden
  assert np.abs(edited - model.apply(params, TTS, TOKENS).hidden).max() > 1e-3


def test_scaling_is_undone_and_not_trained():
  p = scaling.Params(scale=jnp.bfloat16(0.1962890625), bias=jnp.bfloat16(-0.04931640625))
  z = RNG.normal(size=(2, 3, 4)).astype(np.float32)
  y = scaling.to_model(p, z)
  np.testing.assert_allclose(y, (z - 0.04931640625) * 0.1962890625, rtol=1e-6)
  np.testing.assert_allclose(scaling.to_tokenizer(p, y), z, atol=1e-6)
  gradient = jax.grad(lambda p: scaling.to_model(p, z).sum() + scaling.to_tokenizer(p, z).sum())(p)
  assert float(gradient.scale) == 0 and float(gradient.bias) == 0


def test_measured_scaling_gives_mean_0_and_deviation_1():
  z = 3 + 5 * RNG.normal(size=(4, 50, 8)).astype(np.float32)
  mask = np.arange(50) < np.array([[50], [10], [0], [33]])
  y = np.asarray(scaling.to_model(scaling.measure(np.where(mask[..., None], z, 1e3), mask), z))[mask]
  assert abs(y.mean()) < 1e-3 and abs(y.std() - 1) < 1e-3


def test_realtime_is_one_language_model_with_types(realtime_params):
  p, c = realtime_params, REALTIME
  tokens = TOKENS[:, :5]
  below = realtime.lower(p, c, tokens)
  text = realtime.upper_text(p, c, below.hidden, cache=16)
  frame = realtime.upper_speech(p, c, LATENTS[:, :1], cache=text.cache)

  speech = connector.apply(p.connector, LATENTS[:, :1])
  x = jnp.concatenate([below.hidden + p.types[1], speech + p.types[0]], 1)
  want = vibevoice.model.decoder.forward(p.upper, c.upper, x).hidden
  np.testing.assert_allclose(jnp.concatenate([text.hidden, frame.hidden], 1), want, atol=2e-5)


def test_the_stop_classifier_is_its_formula(realtime_params):
  p = jax.tree.map(lambda w: w.astype(np.float64), realtime_params.stop)
  h = RNG.normal(size=(2, 4, REALTIME.upper.width))
  want = expit(np.maximum(h @ p.hidden + p.hidden_bias, 0) @ p.out + p.out_bias)[..., 0]
  got = realtime.stop_probability(realtime_params, h.astype(np.float32))
  np.testing.assert_allclose(got, want, atol=1e-5)
