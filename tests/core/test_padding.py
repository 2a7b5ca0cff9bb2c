"""Padding puts each row where it belongs and refuses what does not fit."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core import padding


@pytest.mark.parametrize('n, want', [(1, 32), (32, 32), (33, 48), (49, 64), (65, 96), (97, 128), (1000, 1024)])
def test_buckets(n, want):
  assert padding.bucket(n) == want


@pytest.mark.parametrize('smallest', [1, 2, 4, 32])
def test_buckets_grow_from_any_power_of_two(smallest):
  sizes = sorted({padding.bucket(n, smallest) for n in range(1, 200)})
  assert sizes[0] == smallest
  assert all(b <= 2 * a for a, b in itertools.pairwise(sizes))
  assert all(padding.bucket(n, smallest) >= n for n in range(1, 200))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
  st.lists(st.lists(st.integers(0, 9), max_size=5), min_size=1, max_size=4),
  st.sampled_from(['left', 'right']),
  st.data(),
)
def test_a_batch_holds_its_rows_and_fill_elsewhere(rows, side, data):
  longest = max(map(len, rows))
  length = longest + data.draw(st.integers(0, 3))
  count = len(rows) + data.draw(st.integers(0, 2))
  got = padding.batch(rows, dtype=np.int32, length=length, count=count, side=side, fill=-7)
  assert got.shape == (count, length) and got.dtype == np.int32
  at = padding.positions([len(row) for row in rows], length, side=side)
  for i, row in enumerate(rows):
    tokens = at[i] >= 0
    assert got[i][tokens].tolist() == row and at[i][tokens].tolist() == list(range(len(row)))
    assert (got[i][~tokens] == -7).all()
  assert (got[len(rows) :] == -7).all()


def test_trailing_axes_and_default_length():
  got = padding.batch([np.ones((3, 2)), np.ones((1, 2))], dtype=np.float32)
  assert got.shape == (2, 32, 2) and got.sum() == 8


@pytest.mark.parametrize('xp', [np, jnp])
def test_pad_stays_on_its_side(xp):
  got = padding.pad(xp.ones((2, 3)), 5, axis=1, side='left', fill=2)
  assert isinstance(got, jax.Array) == (xp is jnp)
  np.testing.assert_array_equal(got, [[2, 2, 1, 1, 1]] * 2)


def test_what_does_not_fit_is_named():
  with pytest.raises(ValueError, match=r'the longest prompt has 9: expected at most 7 \(2 too many\)'):
    padding.batch([range(9), range(2)], dtype=np.int32, length=7, what='prompt')
  with pytest.raises(ValueError, match=r'the batch of prompts has 2: expected at most 1'):
    padding.batch([range(9), range(2)], dtype=np.int32, count=1, what='prompt')
  with pytest.raises(ValueError, match='no prompt to pad'):
    padding.batch([], dtype=np.int32, what='prompt')
  with pytest.raises(ValueError, match='image tiles has 3: expected at most 2'):
    padding.pad(np.ones((3, 1)), 2, what='image tiles')
