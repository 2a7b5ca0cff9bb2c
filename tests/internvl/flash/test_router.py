"""The router of Flash against a float64 transcription of its published rules; its decision; the compact projector."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from scipy.special import erf

import internvl
from core.training.steps import partition
from internvl import projector
from internvl.flash import compact, router
from internvl.flash import names as flash_names

WIDTH, HEADS = 64, 16
R = np.random.default_rng(0)


def redrawn(spec, seed: int):
  """Random float32 weights, far from their initial values, in the shape of a spec."""
  r = np.random.default_rng(seed)
  return jax.tree.map(lambda s: (0.3 * r.standard_normal(s.shape) + (len(s.shape) == 1)).astype(np.float32), spec)


def published(weights, names) -> dict[str, np.ndarray]:
  """The weights under their published names, as float64."""
  stored = {}
  for source, w in zip(jax.tree.leaves(names), jax.tree.leaves(weights), strict=True):
    stored.setdefault(source.name, []).append((source, np.asarray(w, np.float64)))
  return {name: parts[0][0].write([w for _, w in parts]) for name, parts in stored.items()}


def gelu(x):
  return x * 0.5 * (1 + erf(x / np.sqrt(2)))


def norm(w, at, x):
  centred = x - x.mean(-1, keepdims=True)
  scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
  return scaled * w[f'{at}.weight'] + w[f'{at}.bias']


def linear(w, at, x):
  return x @ w[f'{at}.weight'].T + w[f'{at}.bias']


def attention(w, at, query, patches):
  """Multi-head attention of one query [1, D] over patches [P, D], weights packed as torch packs them."""
  size = query.shape[-1]
  rows = lambda part: slice(part * size, (part + 1) * size)
  into = lambda x, part: x @ w[f'{at}.in_proj_weight'][rows(part)].T + w[f'{at}.in_proj_bias'][rows(part)]
  q, k, v = (into(x, part).reshape(len(x), HEADS, -1) for part, x in enumerate((query, patches, patches)))
  scores = np.einsum('qnh,pnh->nqp', q, k) / np.sqrt(q.shape[-1])
  weights = np.exp(scores - scores.max(-1, keepdims=True))
  weights /= weights.sum(-1, keepdims=True)
  out = np.einsum('nqp,pnh->qnh', weights, v).reshape(1, size)
  return linear(w, f'{at}.out_proj', out)


def transcribed(w, patches) -> float:
  """The probability that a tile may be compressed, by the rules of the released model, in float64."""
  at = 'pooling_before_gating.'
  x = norm(w, f'{at}norm1', attention(w, f'{at}attn1', w[f'{at}query_token'], patches))
  for _ in range(3):
    x = norm(w, f'{at}norm2', attention(w, f'{at}attn2', x, patches))
  for k in range(1, 5):
    block = f'gating.block{k}'
    x = x + norm(w, f'{block}.5', linear(w, f'{block}.3', gelu(linear(w, f'{block}.0', x))))
  logits = linear(w, 'gating.gate.1', norm(w, 'gating.gate.0', x))[0]
  return (np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum())[0]


@functools.cache
def example():
  weights = redrawn(router.spec(WIDTH), 1)
  patches = R.standard_normal((6, 16, WIDTH)).astype(np.float32)
  return weights, patches


def test_scores_equal_the_transcription():
  weights, patches = example()
  w = published(weights, flash_names.router_names())
  want = [transcribed(w, tile.astype(np.float64)) for tile in patches]
  scores = jax.jit(router.scores)
  got = scores(weights, patches)
  np.testing.assert_allclose(got, want, atol=1e-5)  # float32 against float64
  assert np.ptp(want) > 0.05
  np.testing.assert_allclose(scores(weights, patches.reshape(2, 3, 16, WIDTH)).ravel(), got, rtol=1e-6)


def test_unused_stages_have_no_effect_and_the_names_of_trained_weights_are_the_others():
  weights, patches = example()
  grads = jax.jit(jax.grad(lambda p: router.logits(p, patches)[:, 0].sum()))(weights)
  tree = internvl.Params(vision=None, projector=None, language=None, router=grads)
  trained, frozen = partition(tree, router.TRAINED)
  assert all(np.abs(g).max() == 0 for g in jax.tree.leaves(frozen))
  silent = [g.shape for g in jax.tree.leaves(trained) if not np.abs(g).max()]
  assert not silent


def test_dropout_is_for_training_alone():
  weights, patches = example()
  logits = jax.jit(router.logits)
  drawn = [logits(weights, patches, key=jax.random.key(k)) for k in range(2)]
  plain = logits(weights, patches)
  assert np.abs(drawn[0] - plain).max() > 1e-3 and np.abs(drawn[0] - drawn[1]).max() > 1e-3


def test_compact_projector_equals_the_transcription():
  weights = redrawn(compact.spec(8, 6, 4), 2)
  patches = R.standard_normal((3, 64, 8)).astype(np.float32)
  w = published(weights, flash_names.compact_names())
  x = np.asarray(projector.pixel_shuffle(patches, 4), np.float64)
  x = gelu(linear(w, 'mlp2.1', norm(w, 'mlp2.0', x)))
  want = linear(w, 'mlp2.7', gelu(linear(w, 'mlp2.4', x)))
  got = jax.jit(compact.apply, static_argnums=2)(weights, patches, 4)
  np.testing.assert_allclose(got, want, atol=1e-4 * np.abs(want).max())


@pytest.mark.parametrize('relative, absolute', [(0.0, 0.5), (0.5, 0.0), (0.25, 0.5), (1.0, 0.0), (None, 0.5)])
def test_decisions_follow_the_rule(relative, absolute):
  scores = np.random.default_rng(3).random((50, 9)).astype(np.float32)
  for row in scores:
    got = router.decide(row, relative=relative, absolute=absolute)
    low = -1.0 if relative is None else np.quantile(row.astype(np.float64), relative)
    np.testing.assert_array_equal(got, (row > low + 1e-7) & (row >= absolute))


def test_equal_scores_compress_nothing_and_absolute_scores_do():
  for value in (0.0, 0.3, 0.7, 1.0):
    same = np.full(7, value, np.float32)
    assert not router.decide(same, relative=0.0, absolute=0.0).any()
    assert not router.decide(same, relative=0.6, absolute=0.0).any()
    assert router.decide(same, relative=None, absolute=0.5).all() == (value >= 0.5)
  assert router.decide(np.zeros(0), relative=0.5, absolute=0.5).shape == (0,)


def test_an_absolute_decision_does_not_depend_on_other_tiles():
  scores = np.random.default_rng(4).random(12).astype(np.float32)
  whole = router.decide(scores, relative=None, absolute=0.5)
  parts = [router.decide(part, relative=None, absolute=0.5) for part in np.split(scores, 4)]
  np.testing.assert_array_equal(whole, np.concatenate(parts))


def test_bad_thresholds_and_widths_are_refused():
  with pytest.raises(ValueError, match=r'relative=1\.5'):
    router.Config(relative=1.5)
  with pytest.raises(ValueError, match=r'absolute=-0\.1'):
    router.Config(absolute=-0.1)
  with pytest.raises(ValueError, match=r'width=40 .* 16 heads'):
    router.spec(40)
  tiny = internvl.CONFIGS['tiny-flash']
  with pytest.raises(ValueError, match=r'grid of 6 .* multiple of 4'):
    dataclasses.replace(tiny, vision=dataclasses.replace(tiny.vision, image_size=24))
