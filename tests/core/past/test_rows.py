"""A cache whose rows have their own lengths: each row as if it were alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core import decoder
from core.params import unstack
from core.past import rows
from core.past.cache import Cache, Start

CONFIG = decoder.CONFIGS['tiny']
TOKENS = np.random.default_rng(0).integers(0, 255, (3, 12))
LENGTHS = np.array([3, 7, 5])


@pytest.fixture(scope='module', params=['stacked', 'unstacked'])
def params(request):
  plain = decoder.init(jax.random.key(0), CONFIG)
  return plain if request.param == 'stacked' else plain.replace(blocks=unstack(plain.blocks))


@jax.jit
def step(params, tokens, positions, cache):
  out = decoder.apply(params, CONFIG, tokens, positions=positions, cache=cache)
  return out.logits[:, 0], out.cache


@jax.jit
def prefilled(params) -> Cache:
  ragged = jnp.where(jnp.arange(7) < LENGTHS[:, None], jnp.arange(7), -1)
  out = decoder.apply(params, CONFIG, TOKENS[:, :7], positions=ragged, cache=Start(9))
  return rows.separate(out.cache)


def token(at) -> jax.Array:
  """Token number at[b] of each row."""
  return jnp.take_along_axis(jnp.asarray(TOKENS), jnp.asarray(at)[:, None], 1)


@jax.jit
def whole(params) -> jax.Array:
  """The logits after each token, without any cache."""
  return decoder.apply(params, CONFIG, TOKENS).logits


@pytest.mark.slow
def test_each_row_continues_where_it_ends(params):
  cache, want = prefilled(params), whole(params)
  lengths = LENGTHS.copy()
  for idle in (None, 1, 0):
    active = np.arange(3) != (-1 if idle is None else idle)
    positions = np.where(active, lengths, -1)[:, None]
    got, after = step(params, token(lengths), positions, cache)
    for row in np.flatnonzero(active):
      np.testing.assert_allclose(got[row], want[row, lengths[row]], atol=2e-5)
    if idle is not None:
      for new, old in zip(jax.tree.leaves((after.k, after.v)), jax.tree.leaves((cache.k, cache.v))):
        axis = 1 if new.ndim == 5 else 0
        np.testing.assert_array_equal(jnp.take(new, idle, axis), jnp.take(old, idle, axis))
      np.testing.assert_array_equal(after.positions[idle], cache.positions[idle])
    lengths = lengths + active
    cache = after
    np.testing.assert_array_equal(cache.length, lengths)


def test_taking_back_restarting_and_growing(params):
  before = prefilled(params)
  _, tried = step(params, token([0, 0, 0]), LENGTHS[:, None], before)
  cache = rows.select(jnp.array([False, True, False]), tried, before)
  np.testing.assert_array_equal(cache.length, LENGTHS + [0, 1, 0])
  cache = rows.grown(rows.reset(cache, jnp.array([False, True, False])), 16)
  assert cache.capacity == 16
  at = np.array([3, 0, 5])
  got, _ = step(params, token(at), at[:, None], cache)
  for row in range(3):
    np.testing.assert_allclose(got[row], whole(params)[row, at[row]], atol=2e-5)


def test_rows_of_two_caches(params):
  one = prefilled(params)
  empty = rows.reset(one, jnp.ones(3, bool))
  both = rows.joined(one, empty)
  at = np.concatenate([LENGTHS, [0, 0, 0]])
  tokens = np.concatenate([token(LENGTHS), TOKENS[:, :1]])
  got, _ = step(params, tokens, at[:, None], both)
  for row in range(3):
    np.testing.assert_allclose(got[3 + row], whole(params)[row, 0], atol=2e-5)
    np.testing.assert_allclose(got[row], whole(params)[row, LENGTHS[row]], atol=2e-5)


def test_a_full_row_is_nan_and_the_others_are_not(params):
  cache = prefilled(params)
  lengths = LENGTHS.copy()
  for _ in range(3):
    got, cache = step(params, token(lengths), lengths[:, None], cache)
    lengths = lengths + 1
  np.testing.assert_array_equal(np.isnan(got).all(-1), [False, True, False])
  np.testing.assert_array_equal(np.isnan(got).any(-1), [False, True, False])
