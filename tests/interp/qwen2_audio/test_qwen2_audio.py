"""Qwen2-Audio: padding is not heard, vectors go where they belong, files come back, generation is recomputation."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core import decoder
from core import params as params_lib
from interp import qwen2_audio
from interp.qwen2_audio.config import audio_tokens
from interp.qwen2_audio.generation import expanded
from interp.sites import edits, zero
from interp.whisper.config import EncoderConfig

AUDIO, END = 7, 1
CONFIG = qwen2_audio.Config(
  audio=EncoderConfig(width=16, heads=2, encoder_depth=2, mels=8, audio_length=12),
  language=decoder.Config(
    vocab=40,
    width=16,
    depth=2,
    heads=2,
    kv_heads=2,
    head_dim=8,
    mlp_width=24,
    norm_eps=1e-5,
    rope_theta=1e4,
    qkv_bias=True,
  ),
  audio_token=AUDIO,
)
FRAMES = (24, 10, 17)
MEL = np.random.default_rng(0).normal(size=(3, 24, 8)).astype(np.float32)
PROMPTS = (expanded(CONFIG, [2, AUDIO, 3, AUDIO, 4], FRAMES[:2]), expanded(CONFIG, [5, AUDIO, 6], FRAMES[2:]))


def drawn():
  """Weights none of which is at its initial zero or one."""
  shapes, tree = jax.tree.flatten(params_lib.abstract(qwen2_audio.spec(CONFIG)))
  rng = np.random.default_rng(1)
  return jax.tree.unflatten(tree, [jnp.asarray(0.4 * rng.standard_normal(s.shape), jnp.float32) for s in shapes])


PARAMS = drawn()
run = jax.jit(
  lambda tokens, mel, frames, edit=None: qwen2_audio.apply(
    PARAMS, CONFIG, tokens, mel=mel, frames=frames, edit=edit, keep=('audio.final', 'resid_in')
  ),
  static_argnames='edit',
)


def whole(edit=None, mel=MEL):
  tokens = jnp.asarray([PROMPTS[0]])
  return run(tokens, jnp.asarray(mel[:2]), jnp.asarray(FRAMES[:2]), edit=edit)


def test_audio_tokens_are_counted_as_published():
  assert [audio_tokens(n) for n in (3000, 100, 1)] == [750, 25, 0]
  assert len(PROMPTS[0]) == 3 + audio_tokens(24) + audio_tokens(10)
  with pytest.raises(ValueError, match='1 audio tokens for 2 recordings'):
    expanded(CONFIG, [AUDIO], (3, 4))


@pytest.mark.slow
def test_padding_is_not_heard_and_each_recording_has_its_place():
  noisy = MEL.copy()
  noisy[1, FRAMES[1] + 4 :] += 5
  np.testing.assert_allclose(whole(mel=noisy).logits, whole().logits, atol=2e-5)
  out = whole()
  vectors, _ = qwen2_audio.audio(PARAMS, CONFIG, jnp.asarray(MEL[:2]), jnp.asarray(FRAMES[:2]))
  first, second = audio_tokens(24), audio_tokens(10)
  entered = out.kept['resid_in'][0, 0]
  np.testing.assert_allclose(entered[1 : 1 + first], vectors[0, :first], atol=1e-5)
  np.testing.assert_allclose(entered[2 + first : 2 + first + second], vectors[1, :second], atol=1e-5)
  np.testing.assert_allclose(entered[-1], PARAMS.language.embed[4], atol=1e-6)


def test_sites_of_both_parts_can_be_edited():
  off = edits({('audio.attn_out', 1): zero}, sites=qwen2_audio.SITES)
  assert np.abs(whole(off).logits - whole().logits).max() > 1e-3
  with pytest.raises(ValueError, match='unknown site'):
    qwen2_audio.apply(PARAMS, CONFIG, jnp.zeros((1, 2), jnp.int32), keep=('vision.z',))


@pytest.mark.slow
def test_generation_is_recomputation():
  rows = qwen2_audio.generate(PARAMS, CONFIG, PROMPTS, MEL, FRAMES, max_new=5, stops=(END,))
  for prompt, row, mel, frames in (
    (PROMPTS[0], rows[0], MEL[:2], FRAMES[:2]),
    (PROMPTS[1], rows[1], MEL[2:], FRAMES[2:]),
  ):
    line = [*prompt, *row.tolist()]
    logits = run(jnp.asarray([line]), jnp.asarray(mel), jnp.asarray(frames)).logits[0]
    want = jnp.argmax(logits[len(prompt) - 1 : -1], -1)
    np.testing.assert_array_equal(row, want)
  with pytest.raises(ValueError, match='audio tokens'):
    qwen2_audio.generate(PARAMS, CONFIG, PROMPTS[1:], MEL, FRAMES, max_new=2, stops=(END,))


def test_a_folder_comes_back(tmp_path):
  qwen2_audio.save(tmp_path, CONFIG, PARAMS)
  config, params = qwen2_audio.load(tmp_path, dtype=jnp.float32)
  same = jax.tree.map(lambda a, b: bool((np.asarray(a) == np.asarray(b)).all()), params, PARAMS)
  assert jax.tree.all(same)
  assert dataclasses.replace(config.language, windows=CONFIG.language.windows) == dataclasses.replace(
    CONFIG.language, max_length=config.language.max_length
  )
  assert config.audio == CONFIG.audio and config.audio_token == AUDIO


def test_the_published_size_has_its_parameters():
  assert params_lib.count(qwen2_audio.spec(qwen2_audio.CONFIGS['7B'])) == 8_397_094_912
