"""Whisper's model: caches, rows that share an audio, sites, and files."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core.params import count
from interp import whisper
from interp.whisper import CONFIGS, decoder, model
from tests.interp.whisper import tiny

TOKENS = np.random.default_rng(1).integers(0, 250, (2, 9)).astype(np.int32)
PUBLISHED = {'tiny': 37_760_640, 'base': 72_593_920, 'large-v3-turbo': 808_878_080, 'distil-small.en': 166_132_224}


@pytest.mark.parametrize(('name', 'numbers'), PUBLISHED.items())
def test_published_sizes(name, numbers):
  assert count(whisper.spec(CONFIGS[name])) == numbers


def test_sinusoids_are_the_formula():
  table = model.sinusoids(5, 8)
  for t in range(5):
    for i in range(4):
      angle = t * math.exp(-i * math.log(10_000) / 3)
      assert table[t, i] == pytest.approx(math.sin(angle), abs=1e-6)
      assert table[t, 4 + i] == pytest.approx(math.cos(angle), abs=1e-6)


def test_a_convolution_is_the_direct_sum():
  p, x = tiny.params(), tiny.mel(1)
  got = model._conv(jnp.asarray(x), p.conv2.replace(weight=p.conv1.weight), 2)
  padded = np.pad(x[0], ((1, 1), (0, 0)))
  for t in (0, 7, 19):
    want = sum(padded[2 * t + k] @ np.asarray(p.conv1.weight[k]) for k in range(3)) + np.asarray(p.conv2.bias)
    np.testing.assert_allclose(got[0, t], want, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize('unstacked', [True, False])
def test_a_cache_changes_nothing(unstacked):
  """Two pieces, the first padded on the left, three rows of text an audio: logits as without a cache."""
  p, c = tiny.params(), tiny.CONFIG
  tokens = np.concatenate([TOKENS, TOKENS[::-1], TOKENS + 1])
  encoded, _ = whisper.encode(p, c, tiny.mel())
  each = jnp.repeat(encoded, 3, 0)
  want = decoder.forward(p.decoder, c, tokens, decoder.cross_keys(p.decoder, each)).hidden
  d = decoder.for_decoding(p.decoder) if unstacked else p.decoder
  keys = decoder.cross_keys(d, encoded)
  cache = decoder.new_cache(c, 6, 14, jnp.float32, unstacked=unstacked)
  first = np.concatenate([np.zeros((6, 3), np.int32), tokens[:, :4]], 1)
  positions = np.broadcast_to(np.arange(7) - 3, (6, 7))
  positions = np.where(positions < 0, -1, positions).astype(np.int32)
  one = decoder.forward(d, c, first, keys, positions=positions, cache=cache)
  rest = np.broadcast_to(np.arange(4, 9, dtype=np.int32), (6, 5))
  two = decoder.forward(d, c, tokens[:, 4:], keys, positions=rest, cache=one.cache)
  np.testing.assert_allclose(one.hidden[:, 3:], want[:, :4], atol=2e-5)
  np.testing.assert_allclose(two.hidden, want[:, 4:], atol=2e-5)


def test_sites_are_kept_edited_and_checked():
  p, c = tiny.params(), tiny.CONFIG
  keep = model.SITES
  out = whisper.apply(p, c, tiny.mel(), TOKENS, keep=keep)
  assert set(out.kept) == set(keep)
  assert out.kept['cross_pattern'].shape == (3, 2, 4, 9, 20)
  np.testing.assert_allclose(out.kept['cross_pattern'].sum(-1), 1, atol=1e-5)
  np.testing.assert_array_equal(out.kept['encoder.final'], out.encoded)
  total = out.kept['resid_in'] + out.kept['attn_out'] + out.kept['cross_attn_out'] + out.kept['mlp_out']
  np.testing.assert_allclose(total, out.kept['resid_out'], atol=1e-4)
  same = whisper.apply(p, c, tiny.mel(), TOKENS, edit=lambda site, layer, x: x)
  np.testing.assert_array_equal(same.logits, out.logits)
  with pytest.raises(ValueError, match='crossed'):
    whisper.apply(p, c, tiny.mel(), TOKENS, keep=('crossed',))


def test_an_edit_of_the_clean_run_restores_it():
  p, c = tiny.params(), tiny.CONFIG
  clean = whisper.apply(p, c, tiny.mel(seed=0), TOKENS, keep=('cross_attn_out',))

  def edit(site, layer, x):
    return clean.kept[site][layer] if site == 'cross_attn_out' else x

  patched = whisper.apply(p, c, tiny.mel(seed=5), TOKENS, edit=edit)
  np.testing.assert_allclose(patched.logits, clean.logits, atol=1e-4)
  other = whisper.apply(p, c, tiny.mel(seed=5), TOKENS)
  assert np.abs(other.logits - clean.logits).max() > 0.1


def test_a_wrong_shape_of_mel_is_named():
  with pytest.raises(ValueError, match=r'mel \(1, 41, 8\)'):
    whisper.encode(tiny.params(), tiny.CONFIG, np.zeros((1, 41, 8), np.float32))


def test_saved_and_loaded(tmp_path):
  p = tiny.params()
  whisper.save(tmp_path, tiny.CONFIG, p)
  config, loaded = whisper.load(tmp_path)
  assert config == tiny.CONFIG
  jax.tree.map(np.testing.assert_array_equal, loaded, p)
