"""Pages as a contiguous cache and back."""

import jax.numpy as jnp
import numpy as np
import pytest

from core.past import copied

PAGES, SIZE = 9, 4
HELD = ((0, 6), (1, 9))  # (row, its tokens)
TABLE = np.array([[3, 5, 0], [8, 1, 6]], np.int32)  # the last entry of row 0 is not listed
LENGTH = np.array([length for _, length in HELD], np.int32)


@pytest.fixture(scope='module')
def pools():
  """One layer's pools, NaN wherever neither row has a token."""
  r = np.random.default_rng(0)
  k = np.full((PAGES, 2, 3, SIZE), np.nan, np.float32)
  v = np.full((PAGES, 2, SIZE, 3), np.nan, np.float32)
  for row, length in HELD:
    for slot in range(length):
      page, offset = TABLE[row, slot // SIZE], slot % SIZE
      k[page, :, :, offset] = r.normal(size=(2, 3))
      v[page, :, offset] = r.normal(size=(2, 3))
  return k, v


def test_the_cache_holds_each_rows_tokens_and_nothing_else(pools):
  k, v = pools
  cache = copied.gathered((k,), (v,), TABLE, LENGTH)
  for row, slot in np.ndindex(2, 3 * SIZE):
    page, offset = TABLE[row, slot // SIZE], slot % SIZE
    is_held = slot < LENGTH[row]
    assert cache.positions[row, slot] == (slot if is_held else -1)
    np.testing.assert_array_equal(cache.k[0][row, :, :, slot], k[page, :, :, offset] if is_held else 0)
    np.testing.assert_array_equal(cache.v[0][row, :, slot], v[page, :, offset] if is_held else 0)


def test_only_the_pages_asked_for_are_written_back(pools):
  k, v = pools
  cache = copied.gathered((k,), (v,), TABLE, LENGTH)
  written = cache.replace(k=(cache.k[0] + 1,), v=(cache.v[0] + 1,))
  page = np.array([[5, PAGES], [1, 6]], np.int32)
  (new_k,), (new_v,) = copied.returned((jnp.asarray(k),), (jnp.asarray(v),), written, page, np.array([1, 1]))
  for listed, row, depth in ((5, 0, 1), (1, 1, 1), (6, 1, 2)):
    slots = slice(depth * SIZE, (depth + 1) * SIZE)
    np.testing.assert_array_equal(new_k[listed], written.k[0][row, :, :, slots])
    np.testing.assert_array_equal(new_v[listed], written.v[0][row, :, slots])
  for untouched in (0, 2, 3, 4, 7, 8):
    np.testing.assert_array_equal(new_k[untouched], k[untouched])
    np.testing.assert_array_equal(new_v[untouched], v[untouched])
