"""Tokenizers: causality, pieces against the whole, tails, noise, sizes."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core import params as params_lib
from core.conv import reset, select
from vibevoice import CONFIGS, tokenizer
from vibevoice.tokenizer import decoder, encoder, streaming

CONFIG = dataclasses.replace(CONFIGS['tiny'].acoustic, ratios=(2, 5), depths=(1, 1, 2))
RNG = np.random.default_rng(1)
STEP = jax.jit(decoder.apply, static_argnames='config')
WAV = RNG.normal(size=(2, 7 * CONFIG.hop + 3)).astype(np.float32)


@pytest.fixture(scope='module')
def params(drawn):
  return drawn(tokenizer.spec(CONFIG))


@pytest.fixture(scope='module')
def means(params):
  return np.asarray(tokenizer.encode(params, CONFIG, WAV))


def test_published_sizes():
  acoustic, semantic = CONFIGS['1.5B'].acoustic, CONFIGS['1.5B'].semantic
  assert params_lib.count(encoder.spec(acoustic)) == 343_696_032
  assert params_lib.count(decoder.spec(acoustic)) == 343_695_969
  assert params_lib.count(encoder.spec(semantic)) == 344_613_600
  assert len(jax.tree.leaves(encoder.spec(acoustic))) == 7 * (2 + 10) + 2  # blocks of a stage are stacked


def test_state_of_a_stream_has_the_published_size():
  config = CONFIGS['1.5B'].acoustic
  sizes = []
  for half in (encoder, decoder):
    abstract = params_lib.abstract(half.spec(config))
    state = jax.eval_shape(functools.partial(half.initial, config=config, rows=1), abstract)
    sizes.append(sum(leaf.size for leaf in jax.tree.leaves(state)))
  assert sizes == [159_622, 139_200]


@pytest.mark.slow
def test_a_recording_in_chunks_is_the_recording(params, means):
  assert means.shape == (2, 8, CONFIG.latent)
  got = tokenizer.encode(params, CONFIG, WAV, chunk=3)
  np.testing.assert_allclose(got, means, atol=1e-5 * means.std())
  wav = np.asarray(tokenizer.decode(params, CONFIG, means))
  assert wav.shape == (2, 8 * CONFIG.hop)
  np.testing.assert_allclose(tokenizer.decode(params, CONFIG, means, chunk=3), wav, atol=1e-5 * wav.std())


@pytest.mark.parametrize('tail', ['pad', 'layerwise'])
def test_a_stream_of_any_pieces_is_the_recording(params, tail):
  want = tokenizer.encode(params, CONFIG, WAV, tail=tail)
  stream = streaming.start(params, CONFIG, 2)
  got = []
  for piece in np.split(WAV, [1, 41, 45, 60], 1):
    new, stream = streaming.push(params, CONFIG, stream, piece)
    got.append(new)
  got.append(streaming.finish(params, CONFIG, stream, tail=tail))
  np.testing.assert_allclose(np.concatenate(got, 1), want, atol=1e-5 * np.std(want))


def test_tails_differ_in_the_last_frame_only(params, means):
  layerwise = np.asarray(tokenizer.encode(params, CONFIG, WAV, tail='layerwise'))
  np.testing.assert_allclose(layerwise[:, :-1], means[:, :-1], atol=1e-5)
  assert np.abs(layerwise[:, -1] - means[:, -1]).max() > 1e-2
  whole = WAV[:, : 4 * CONFIG.hop]
  same = tokenizer.encode(params, CONFIG, whole, tail='layerwise')
  np.testing.assert_array_equal(same, tokenizer.encode(params, CONFIG, whole))


def test_nothing_looks_ahead(params, means):
  changed = WAV.copy()
  changed[:, 3 * CONFIG.hop] += 1
  got = np.asarray(tokenizer.encode(params, CONFIG, changed))
  np.testing.assert_array_equal(got[:, :3], means[:, :3])
  assert np.abs(got[:, 3] - means[:, 3]).max() > 1e-3
  late = means.copy()
  late[:, 5] += 1
  before, after = (np.asarray(tokenizer.decode(params, CONFIG, x)) for x in (means, late))
  np.testing.assert_array_equal(before[:, : 5 * CONFIG.hop], after[:, : 5 * CONFIG.hop])
  assert np.abs(before - after)[:, 5 * CONFIG.hop].max() > 0


def test_an_idle_row_keeps_its_state_and_a_reset_row_begins_anew(params, means):
  state = decoder.initial(params.decoder, CONFIG, 2)
  _, first = STEP(params.decoder, CONFIG, means[:, :2], state)
  _, second = STEP(params.decoder, CONFIG, means[:, 2:3], first)
  mixed = select(jnp.array([True, False]), second, first)
  for kept, old in zip(jax.tree.leaves(mixed), jax.tree.leaves(first), strict=True):
    np.testing.assert_array_equal(kept[..., 1, :, :], old[..., 1, :, :])
  anew = reset(jnp.array([False, True]), second)
  wav, _ = STEP(params.decoder, CONFIG, means[:, :1], anew)
  want = tokenizer.decode(params, CONFIG, means[1:, :1])
  np.testing.assert_allclose(wav[1:], want, atol=1e-6)


def test_unstacked_blocks_compute_the_same(params, means):
  stages = {i: s.replace(blocks=params_lib.unstack(s.blocks)) for i, s in params.encoder.stages.items()}
  unrolled = params.replace(encoder=params.encoder.replace(stages=stages))
  np.testing.assert_allclose(tokenizer.encode(unrolled, CONFIG, WAV), means, atol=1e-5)


def test_noise_is_one_scale_a_recording(means):
  keys = jax.random.split(jax.random.key(3), 400)
  zeros = jnp.zeros((4, 50, CONFIG.latent))
  drawn = np.asarray(jax.vmap(lambda key: tokenizer.sample(CONFIG, zeros, key))(keys))
  scales = drawn.std((2, 3))  # of each recording
  assert abs(np.sqrt(np.mean(scales**2)) - CONFIG.std / 0.8) < 0.03
  assert scales.std() > 0.3  # they vary: the scale itself is normal
  halves = drawn.reshape(400, 4, 2, 25, -1).std((3, 4))
  np.testing.assert_allclose(halves[:, :, 0], halves[:, :, 1], rtol=0.5)
  fixed = dataclasses.replace(CONFIG, sampling='fix')
  noise = RNG.normal(size=means.shape)
  got = tokenizer.noised(fixed, means, np.zeros(2), noise)
  np.testing.assert_allclose(got, means + 0.5 * noise, rtol=1e-5)
  assert tokenizer.sample(CONFIGS['tiny'].semantic, means, keys[0]) is means


def test_bfloat16_weights_compute_in_float32(params):
  half = params_lib.cast(params, jnp.bfloat16)
  again = params_lib.cast(half, jnp.float32)
  np.testing.assert_array_equal(tokenizer.encode(half, CONFIG, WAV), tokenizer.encode(again, CONFIG, WAV))


def test_bad_input_is_refused(params):
  with pytest.raises(ValueError, match=r'audio of shape \(2, 0\)'):
    tokenizer.encode(params, CONFIG, WAV[:, :0])
  with pytest.raises(ValueError, match=r'audio of shape \(73,\)'):
    tokenizer.encode(params, CONFIG, WAV[0])
  with pytest.raises(ValueError, match="tail='cut'"):
    tokenizer.encode(params, CONFIG, WAV, tail='cut')
  with pytest.raises(ValueError, match=r'latents of shape \(1, 8, 5\)'):
    tokenizer.decode(params, CONFIG, np.zeros((1, CONFIG.latent, 5)))
