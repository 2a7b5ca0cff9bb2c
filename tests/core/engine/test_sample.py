"""Sampling: distributions, filters, batches that do not matter, programs that are not compiled twice."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core import decoder
from core.engine import sample
from core.engine.sample import Generation, Sampling

CONFIG = dataclasses.replace(decoder.CONFIGS['tiny'], vocab=40, max_length=128)
PARAMS = jax.tree.map(lambda w: w * 8, decoder.init(jax.random.key(0), CONFIG))  # far from uniform


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


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(0, 10**6), st.integers(0, 14), st.floats(0.05, 1.0), st.floats(0.0, 0.9))
def test_filters_equal_a_slow_reference(seed, top_k, top_p, min_p):
  logits = 2 * np.random.default_rng(seed).standard_normal((1, 12)).astype(np.float32)
  out = np.asarray(sample.filtered(jnp.asarray(logits), Sampling.of(1, top_k=top_k, top_p=top_p, min_p=min_p)))[0]
  kept = set(np.flatnonzero(np.isfinite(out)).tolist())
  assert kept == slow_filter(logits[0].astype(np.float64), top_k, top_p, min_p)
  assert all(out[i] == logits[0, i] for i in kept)


@pytest.mark.parametrize('options', [{}, {'top_k': 3}, {'top_p': 0.7}, {'min_p': 0.2}])
def test_frequencies_follow_the_distribution(options):
  n = 20_000
  logits = np.array([1.0, 0.3, -0.5, 2.0, 0.9], np.float32)
  s = Sampling.of(n, temperature=0.8, seed=3, **options)
  token, logp = sample.pick(jnp.tile(logits, (n, 1)), s, jnp.full(n, 7))
  p = np.exp(logits / 0.8)
  full = p / p.sum()
  kept = slow_filter(logits / 0.8, *(options.get(k, d) for k, d in (('top_k', 0), ('top_p', 1.0), ('min_p', 0.0))))
  p = np.where([i in kept for i in range(5)], p, 0) / sum(p[i] for i in kept)
  frequency = np.bincount(token, minlength=5) / n
  assert (np.abs(frequency - p) <= 4.5 * np.sqrt(p * (1 - p) / n)).all(), (frequency, p)
  np.testing.assert_allclose(logp, np.log(full)[np.asarray(token)], atol=1e-5)


def test_disallowed_tokens_are_never_chosen():
  logits = jnp.tile(jnp.array([5.0, 1.0, 0.0]), (200, 1))
  s = Sampling.of(200, temperature=np.tile([0.0, 1.0], 100))
  token, _ = sample.pick(logits, s, jnp.arange(200), allowed=jnp.array([False, True, True]))
  assert (token > 0).all() and len(set(token.tolist())) == 2


@pytest.mark.parametrize('bad', [{'temperature': -1}, {'top_k': -1}, {'top_p': 0.0}, {'top_p': 1.1}, {'min_p': 1.0}])
def test_values_out_of_range_are_named(bad):
  with pytest.raises(ValueError, match=next(iter(bad))):
    Sampling.of(2, **bad)


def run(prompts, *, left=False, new=12, stops=(), params=PARAMS, width=0, **options):
  """The generated rows of a batch of ragged prompts, padded on one side to `width` or the longest."""
  width = max(width, *map(len, prompts))
  tokens, at = np.zeros((len(prompts), width), np.int32), np.full((len(prompts), width), -1, np.int32)
  for i, prompt in enumerate(prompts):
    where = slice(width - len(prompt), None) if left else slice(len(prompt))
    tokens[i, where], at[i, where] = prompt, np.arange(len(prompt))
  g = Generation(params, CONFIG, tokens, at, max_new=new, stops=stops, sampling=Sampling.of(len(prompts), **options))
  g.advance()
  return [row.tolist() for row in g.rows()]


PROMPTS = [[1, 2, 3], [9, 8, 7, 6, 5, 4], [20]]


def test_a_request_gets_the_same_tokens_whatever_stands_beside_it():
  sampled = {'temperature': 1.0, 'top_p': 0.95}
  together = run(PROMPTS, seed=[5, 6, 7], **sampled)
  assert len({tuple(row) for row in together}) == 3
  assert [run([p], seed=[s], **sampled)[0] for p, s in zip(PROMPTS, (5, 6, 7))] == together
  assert run(PROMPTS[::-1], seed=[7, 6, 5], **sampled)[::-1] == together
  assert run(PROMPTS, left=True, width=20, seed=[5, 6, 7], **sampled) == together
  assert run(PROMPTS, seed=[5, 6, 8], **sampled)[:2] == together[:2]


def test_greedy_equals_the_full_forward_pass():
  unstacked = sample.for_decoding(PARAMS)
  assert isinstance(unstacked.blocks, tuple)
  for params in (PARAMS, unstacked):
    for prompt, answer in zip(PROMPTS, run(PROMPTS, new=8, params=params)):
      tokens = np.array([prompt + answer], np.int32)
      best = np.asarray(decoder.apply(PARAMS, CONFIG, tokens).logits.argmax(-1))[0]
      assert best[len(prompt) - 1 : -1].tolist() == answer


def test_stops_and_limits_end_rows():
  free = run(PROMPTS)
  stop = free[1][4]
  stopped = run(PROMPTS, stops=[stop])
  for a, b in zip(free, stopped):
    assert b == (a[: a.index(stop) + 1] if stop in a else a)
  assert [len(row) for row in run(PROMPTS, new=[1, 12, 5])] == [1, 12, 5]


def test_advancing_in_steps_equals_one_go():
  tokens, at = np.array([PROMPTS[1]], np.int32), np.arange(6)[None]
  g = Generation(PARAMS, CONFIG, tokens, at, max_new=12, sampling=Sampling.of(1, temperature=1.0, seed=[6]))
  for until in (3, 4, 9):
    g.advance(until)
    assert not g.finished and len(g.rows()[0]) == until
  g.advance()
  assert g.finished and g.rows()[0].tolist() == run([PROMPTS[1]], temperature=1.0, seed=[6])[0]


def test_lengths_in_one_bucket_share_their_programs():
  run([[1, 2]], new=3)
  before = sample._prefill._cache_size(), sample._decode._cache_size()
  for length, new in ((1, 1), (7, 5), (31, 32), (32, 17)):
    run([[3] * length], new=new, temperature=1.0, top_k=4)
  assert (sample._prefill._cache_size(), sample._decode._cache_size()) == before
  run([[3] * 33], new=3)
  assert sample._prefill._cache_size() == before[0] + 1


def test_buckets():
  assert [sample.bucket(n) for n in (0, 32, 33, 48, 49, 65, 97, 129, 193)] == [32, 32, 48, 48, 64, 96, 128, 192, 256]


def test_impossible_requests_are_refused():
  with pytest.raises(ValueError, match='context of 128'):
    run([[1] * 120], new=9)
  with pytest.raises(ValueError, match='row 1'):
    run([[1], []])
