"""The TPU kernel of tree attention, interpreted: float64 softmax over random trees, races, fetches."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu

from kernels.tree import pallas_tpu
from kernels.tree.plan import plan
from tests.kernels.test_tree import CAPACITY, HEADS, PAGE, ROWS, arrays, expected, tree


@functools.partial(jax.jit, static_argnames=('window', 'interpret'))
def call(q, k, v, p, sinks=None, *, window=None, interpret=True):
  return pallas_tpu.run(q, k, v, p, sinks, window=window, interpret=interpret)


@pytest.mark.slow
@pytest.mark.parametrize('groups,window,sunk', [(1, None, False), (4, None, True), (7, 6, False), (8, 3, True)])
def test_equals_float64_softmax(groups, window, sunk):
  """Fifty random trees each; unused tokens and pages are NaN, and some rows have no page."""
  r = np.random.default_rng(groups)
  for _ in range(50):
    tables, lengths = tree(r, ROWS)
    q, k, v = arrays(r, groups, tables, lengths)
    sinks = r.standard_normal(HEADS * groups).astype(np.float32) if sunk else None
    p = plan(tables, lengths, page_size=PAGE, capacity=CAPACITY)
    out, lse = call(q, k, v, p, sinks, window=window)
    want, want_lse = expected(q, k, v, tables, lengths, window, sinks)
    np.testing.assert_allclose(out, want, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(lse, want_lse, rtol=1e-6, atol=1e-6)


def wide_tree(r):
  """Thirty rows under two shared pages, past the 128 query rows of one wide step; each has a page of its own."""
  shared = [0, 1]
  tables = [[*shared, 2 + row] for row in range(30)]
  lengths = r.integers(2 * PAGE + 1, 3 * PAGE + 1, 30).astype(np.int32)
  return tables, lengths


def test_more_readers_than_one_step_holds():
  r = np.random.default_rng(3)
  tables, lengths = wide_tree(r)
  q, k, v = arrays(r, 8, tables, lengths)
  out, lse = call(q, k, v, plan(tables, lengths, page_size=PAGE))
  want, want_lse = expected(q, k, v, tables, lengths, None, None)
  np.testing.assert_allclose(out, want, rtol=1e-6, atol=1e-6)
  np.testing.assert_allclose(lse, want_lse, rtol=1e-6, atol=1e-6)


def test_bfloat16_and_repeated_runs():
  r = np.random.default_rng(6)
  tables, lengths = tree(r, ROWS)
  q, k, v = (jnp.asarray(x, jnp.bfloat16) for x in arrays(r, 2, tables, lengths))
  p = plan(tables, lengths, page_size=PAGE, capacity=CAPACITY)
  first, second = call(q, k, v, p), call(q, k, v, p)
  for a, b in zip(first, second):
    np.testing.assert_array_equal(np.asarray(a, np.float32), np.asarray(b, np.float32))
  want, _ = expected(*(np.asarray(x, np.float64) for x in (q, k, v)), tables, lengths, None, None)
  np.testing.assert_allclose(np.asarray(first[0], np.float32), want, atol=0.03)


def test_order_of_rows_does_not_matter():
  r = np.random.default_rng(5)
  tables, lengths = tree(r, ROWS)
  q, k, v = arrays(r, 4, tables, lengths)
  out = call(q, k, v, plan(tables, lengths, page_size=PAGE, capacity=CAPACITY))[0]
  order = r.permutation(ROWS)
  again = plan([tables[i] for i in order], lengths[order], page_size=PAGE, capacity=CAPACITY)
  np.testing.assert_allclose(call(q[order], k, v, again)[0], out[order], rtol=1e-6, atol=1e-6)


def test_a_list_split_anywhere_merges_to_the_same():
  """Two kernels over the two parts of the item list, merged by log-sum-exp."""
  r = np.random.default_rng(12)
  tables, lengths = tree(r, ROWS)
  q, k, v = arrays(r, 4, tables, lengths)
  p = plan(tables, lengths, page_size=PAGE, capacity=CAPACITY)
  want, want_lse = call(q, k, v, p)
  item = np.arange(len(p.page))
  for cut in (0, 1, 7, int(p.ends[-1])):
    parts = [call(q, k, v, p.replace(readers=np.where(kept, p.readers, 0))) for kept in (item < cut, item >= cut)]
    lse = np.logaddexp(parts[0][1], parts[1][1])
    safe = np.where(np.isfinite(lse), lse, 0)
    out = sum(np.asarray(part) * np.exp(part_lse - safe)[..., None] for part, part_lse in parts)
    np.testing.assert_allclose(out, want, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(lse, want_lse, rtol=1e-5, atol=1e-6)


def test_each_page_is_fetched_once():
  """The pipeline fetches a block where its index differs from that of the step before."""
  r = np.random.default_rng(13)
  for _ in range(30):
    tables, lengths = tree(r, int(r.integers(1, 40)))
    p = plan(tables, lengths, page_size=PAGE)
    lists = (p.page, p.start, p.first, p.readers)
    blocks = [pallas_tpu.block_page(i, *lists)[0] for i in range(int(p.ends[-1]))]
    fetched = [b for i, b in enumerate(blocks) if i == 0 or b != blocks[i - 1]]
    assert sorted(fetched) == sorted({page for t in tables for page in t})


@pytest.mark.slow
def test_no_races_and_no_unwritten_memory():
  from jax._src.pallas.mosaic.interpret import interpret_pallas_call

  tables, lengths = [[0, 1], [0, 2], [0], []], np.array([7, 6, 3, 0], np.int32)
  r = np.random.default_rng(14)
  q, k, v = arrays(r, 4, tables, lengths)
  checks = pltpu.InterpretParams(detect_races=True, uninitialized_memory='nan', dma_execution_mode='on_wait')
  out, lse = call(q, k, v, plan(tables, lengths, page_size=PAGE), interpret=checks)
  want, want_lse = expected(q, k, v, tables, lengths, None, None)
  np.testing.assert_allclose(out, want, rtol=1e-6, atol=1e-6)
  np.testing.assert_allclose(lse, want_lse, rtol=1e-6, atol=1e-6)
  assert not interpret_pallas_call.races.races_found


def test_refusals_say_why():
  p = plan([[0]], [1], page_size=128)
  shape = jax.ShapeDtypeStruct

  def reason(rows=1, size=128, page=128, dtype=jnp.bfloat16):
    q = shape((rows, 8, size), dtype)
    pools = shape((4, 2, size, page), jnp.bfloat16), shape((4, 2, page, size), jnp.bfloat16)
    return pallas_tpu.refuse(q, *pools, p, None, window=None)

  assert reason() is None
  assert 'got 16 tokens of 128' in reason(page=16)
  assert 'got 128 tokens of 64' in reason(size=64)
  assert 'float32 and bfloat16' in reason(dtype=jnp.float32)
  assert '100000 rows need' in reason(rows=100_000)
