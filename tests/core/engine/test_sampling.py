"""Sampling: distributions, filters, penalties, parameters out of range."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.engine import sampling
from core.engine.sampling import Sampling


def slow_filter(logits, top_k, top_p, min_p):
  """Which tokens stay: top-k, then the least set holding top_p of what is left, then min_p of the best."""
  order = np.argsort(-logits, kind='stable')
  if top_k:
    order = order[:top_k]
  p = np.exp(logits[order] - logits.max())
  p /= p.sum()
  kept, total = [], 0.0
  for token, chance in zip(order, p):
    if kept and (total >= top_p or chance < min_p * p[0]):
      break
    kept.append(token)
    total += chance
  return set(map(int, kept))


@pytest.mark.slow
@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(0, 10**6), st.integers(0, 14), st.floats(0.05, 1.0), st.floats(0.0, 0.9))
def test_filters_equal_a_slow_reference(seed, top_k, top_p, min_p):
  logits = 2 * np.random.default_rng(seed).standard_normal((1, 12)).astype(np.float32)
  out = np.asarray(sampling.filtered(jnp.asarray(logits), Sampling.of(1, top_k=top_k, top_p=top_p, min_p=min_p)))[0]
  kept = set(np.flatnonzero(np.isfinite(out)).tolist())
  assert kept == slow_filter(logits[0].astype(np.float64), top_k, top_p, min_p)
  assert all(out[i] == logits[0, i] for i in kept)


@pytest.mark.slow
@pytest.mark.parametrize('options', [{}, {'top_k': 3}, {'top_p': 0.7}, {'min_p': 0.2}])
def test_frequencies_follow_the_distribution(options):
  n = 20_000
  logits = np.array([1.0, 0.3, -0.5, 2.0, 0.9], np.float32)
  s = Sampling.of(n, temperature=0.8, seed=3, **options)
  token, logp = sampling.pick(jnp.tile(logits, (n, 1)), s, jnp.full(n, 7))
  p = np.exp(logits / 0.8)
  full = p / p.sum()
  kept = slow_filter(logits / 0.8, *(options.get(k, d) for k, d in (('top_k', 0), ('top_p', 1.0), ('min_p', 0.0))))
  p = np.where([i in kept for i in range(5)], p, 0) / sum(p[i] for i in kept)
  frequency = np.bincount(token, minlength=5) / n
  assert (np.abs(frequency - p) <= 4.5 * np.sqrt(p * (1 - p) / n)).all(), (frequency, p)
  np.testing.assert_allclose(logp, np.log(full)[np.asarray(token)], atol=1e-5)


@pytest.mark.slow
def test_frequencies_follow_the_distribution_over_many_blocks():
  """Of a vocabulary that no block divides, with a block whose tokens are all masked and a long improbable tail."""
  n = 20_000
  vocab = 3 * sampling.BLOCK + 5
  logits = np.random.default_rng(0).normal(size=vocab).astype(np.float32)
  logits[sampling.BLOCK : 2 * sampling.BLOCK] = -np.inf
  logits[-40:] -= 12
  token, _ = sampling.pick(jnp.tile(logits, (n, 1)), Sampling.of(n, temperature=1.0, seed=5), jnp.full(n, 2))
  p = np.exp(logits.astype(np.float64))
  p /= p.sum()
  frequency = np.bincount(token, minlength=vocab) / n
  assert (np.abs(frequency - p) <= 5 * np.sqrt(p * (1 - p) / n) + 1 / n).all()


def test_greedy_is_the_first_of_the_largest():
  logits = jnp.asarray(np.random.default_rng(0).integers(-3, 3, (50, 300)), jnp.float32)
  token, _ = sampling.pick(logits, Sampling.of(50), jnp.arange(50))
  np.testing.assert_array_equal(token, logits.argmax(-1))


def test_disallowed_tokens_are_never_chosen():
  logits = jnp.tile(jnp.array([5.0, 1.0, 0.0]), (200, 1))
  s = Sampling.of(200, temperature=np.tile([0.0, 1.0], 100))
  token, _ = sampling.pick(logits, s, jnp.arange(200), jnp.where(jnp.array([False, True, True]), logits, -jnp.inf))
  assert (token > 0).all() and len(set(token.tolist())) == 2


NAN, INF = float('nan'), float('inf')
BAD = [
  {'temperature': -1},
  {'temperature': NAN},
  {'temperature': INF},
  {'top_k': -1},
  {'top_k': 1.5},
  {'top_p': 0.0},
  {'top_p': 1.1},
  {'top_p': NAN},
  {'min_p': 1.0},
  {'min_p': NAN},
  {'repetition_penalty': 0.0},
  {'repetition_penalty': NAN},
  {'temperature': [1.0, NAN]},
]


@pytest.mark.parametrize('bad', BAD)
def test_values_out_of_range_are_named(bad):
  with pytest.raises(ValueError, match=next(iter(bad))):
    Sampling.of(2, **bad)


@pytest.mark.slow
def test_log_probabilities_are_the_models_own_under_mask_and_filters():
  """One rule: the model's distribution at the row's temperature, before mask, penalty and filters."""
  logits = jnp.tile(jnp.array([3.0, 1.0, 0.0, -1.0]), (50, 1))
  masked = jnp.where(jnp.array([False, True, True, True]), logits, -jnp.inf)
  for options, temperature in (
    ({}, 1.0),
    ({'temperature': 0.7, 'top_k': 2}, 0.7),
    ({'temperature': 2.0, 'top_p': 0.5}, 2),
  ):
    token, logp = sampling.pick(logits, Sampling.of(50, **options), jnp.arange(50), masked)
    z = np.asarray(logits[0], np.float64) / temperature
    want = z - np.log(np.exp(z).sum())
    assert (token > 0).all()
    np.testing.assert_allclose(logp, want[np.asarray(token)], atol=1e-5)


@pytest.mark.parametrize('bad', [NAN, INF])
def test_logits_without_a_finite_sum_are_marked(bad):
  logits = jnp.zeros((3, 5)).at[1, 2].set(bad)
  for temperature in (0.0, 1.0):
    _, logp = sampling.pick(logits, Sampling.of(3, temperature=temperature), jnp.arange(3))
    assert np.isnan(logp).tolist() == [False, True, False]


@pytest.mark.parity
def test_repetition_penalty_is_that_of_transformers():
  torch = pytest.importorskip('torch')
  from transformers import RepetitionPenaltyLogitsProcessor

  r = np.random.default_rng(0)
  logits, tokens = r.standard_normal((4, 30)).astype(np.float32), r.integers(0, 30, (4, 9))
  seen = np.zeros((4, 30), bool)
  np.put_along_axis(seen, tokens, True, 1)
  for penalty in (0.5, 1.0, 1.3):
    theirs = RepetitionPenaltyLogitsProcessor(penalty)(torch.tensor(tokens), torch.tensor(logits))
    ours = sampling.penalised(jnp.asarray(logits), jnp.asarray(seen), jnp.full(4, penalty))
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-6)
