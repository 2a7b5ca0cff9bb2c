"""The GPU kernel of tree attention in jax's Mosaic GPU interpreter: float64 softmax over random trees, races."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels.tree import by_block, mosaic_gpu
from kernels.tree.plan import plan
from tests.kernels.interpreted import CHECKED, hopper
from tests.kernels.test_tree import CAPACITY, HEADS, arrays, expected, tree

PAGE = SIZE = 64
ROWS = 9


@functools.partial(jax.jit, static_argnames=('window', 'parts'))
def attend(q, k, v, p, *, window=None, parts=2):
  return mosaic_gpu.attend(q, k, v, p, window=window, parts=parts, interpret=CHECKED)


def problem(r, groups, rows=ROWS, dtype=jnp.float16):
  """(q, k, v, tables, lengths) of a random tree; unread tokens are NaN."""
  tables, lengths = tree(r, rows, PAGE)
  q, k, v = (jnp.asarray(x, dtype) for x in arrays(r, groups, tables, lengths, PAGE, SIZE))
  return q, k, v, tables, lengths


def plan_of(tables, lengths):
  return plan(tables, lengths, page_size=PAGE, capacity=CAPACITY)


def rounded(q, k, v, tables, lengths, window):
  """Attention in float64 but for the weights, which the kernel rounds to the type of the pages: [R, N, H].

  It shifts exponents by integers, so a weight is rounded alike wherever a list is cut.
  """
  dtype = v.dtype
  q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
  out = np.zeros(q.shape)
  for row, (table, length) in enumerate(zip(tables, lengths)):
    tokens = np.arange(0 if window is None else max(length - window, 0), length)
    pages = np.array(table, int)[tokens // PAGE] if len(tokens) else tokens
    for head in range(q.shape[1]):
      key = head * HEADS // q.shape[1]
      exponent = k[pages, key, :, tokens % PAGE] @ q[row, head] / np.sqrt(SIZE) / np.log(2)
      weights = np.exp2(exponent - np.ceil(exponent.max(initial=0)))
      held = np.asarray(jnp.asarray(weights, jnp.float32).astype(dtype), np.float64)
      if len(tokens):
        out[row, head] = held @ v[pages, key, tokens % PAGE] / weights.sum()
  return out


@pytest.mark.slow
@pytest.mark.parametrize('dtype', [jnp.float16, jnp.bfloat16])
@pytest.mark.parametrize('groups,window', [(1, None), (4, None), (7, 90), (8, 3)])
def test_equals_float64_softmax(groups, window, dtype):
  """Some rows have no page; sums are float32."""
  r = np.random.default_rng(groups)
  q, k, v, tables, lengths = problem(r, groups, dtype=dtype)
  with hopper():
    out, lse = attend(q, k, v, plan_of(tables, lengths), window=window)
  exact, want_lse = expected(*(np.asarray(x, np.float64) for x in (q, k, v)), tables, lengths, window, None)
  np.testing.assert_allclose(lse, want_lse, rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(out, rounded(q, k, v, tables, lengths, window), rtol=0, atol=1e-5)
  eps = float(jnp.finfo(dtype).eps)
  np.testing.assert_allclose(out, exact, rtol=eps, atol=eps)


@pytest.mark.slow
def test_sinks_order_of_rows_and_repeated_runs(monkeypatch):
  monkeypatch.setattr(mosaic_gpu, 'MOST_PARTS', 2)
  r = np.random.default_rng(3)
  q, k, v, tables, lengths = problem(r, 4)
  sinks = jnp.asarray(r.standard_normal(HEADS * 4), jnp.float32)
  run = jax.jit(functools.partial(mosaic_gpu.run, window=None, interpret=CHECKED))
  order = r.permutation(ROWS)
  again = plan_of([tables[i] for i in order], lengths[order])
  with hopper():
    first, second = (run(q, k, v, plan_of(tables, lengths), sinks) for _ in range(2))
    out, lse = run(q[order], k, v, again, sinks)
  for a, b in zip(first, second):
    np.testing.assert_array_equal(a, b)
  want, want_lse = expected(*(np.asarray(x, np.float64) for x in (q, k, v)), tables, lengths, None, np.asarray(sinks))
  np.testing.assert_allclose(first[0], want, atol=1e-3)
  np.testing.assert_allclose(first[1], want_lse, rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(out, first[0][order], atol=1e-3)
  np.testing.assert_allclose(lse, first[1][order], rtol=1e-6, atol=1e-6)


@pytest.mark.slow
def test_the_number_of_parts_changes_nothing():
  r = np.random.default_rng(12)
  q, k, v, tables, lengths = problem(r, 4)
  with hopper():
    one, *others = (attend(q, k, v, plan_of(tables, lengths), parts=parts) for parts in (1, 3, 8))
  for out, lse in others:
    np.testing.assert_allclose(out, one[0], rtol=0, atol=1e-6)
    np.testing.assert_allclose(lse, one[1], rtol=0, atol=1e-6)


@pytest.mark.parametrize('groups,window', [(1, None), (4, None), (7, 6), (16, 3)])
def test_items_of_a_block_are_what_its_rows_read(groups, window):
  """By brute force: each block lists each page that one of its rows reads, once; with windows it may list a page
  between those of its rows."""
  r = np.random.default_rng(groups)
  page = 4
  tables, lengths = tree(r, 25)
  p = plan(tables, lengths, page_size=page)
  items = by_block.items(p, groups, query_rows=64, page_size=page, window=window)
  rows = 64 // groups
  for block, count in enumerate(np.asarray(items.count)):
    want = {}
    for place in range(block * rows, min(block * rows + rows, 25)):
      row = p.order[place]
      first = 0 if window is None else max(lengths[row] - window, 0)
      for token in range(first, lengths[row]):
        want.setdefault(tables[row][token // page], []).append((place, token))
    listed = np.asarray(items.page)[block, :count].tolist()
    assert len(listed) == len(set(listed)) and set(listed) >= set(want)
    assert window is not None or len(listed) == len(want)
    for item, number in enumerate(listed):
      if number not in want:
        continue
      low, high, start = (int(np.asarray(x)[block, item]) for x in (items.low, items.high, items.start))
      tokens = [token - start for _, token in want[number]]
      assert low <= min(tokens) and max(tokens) < high
      begin, end = (int(np.asarray(x)[block, item]) // groups + block * rows for x in (items.begin, items.end))
      assert begin <= min(want[number])[0] and max(want[number])[0] < end


def test_refusals_say_why():
  p = plan([[0]], [1], page_size=128)
  shape = jax.ShapeDtypeStruct

  def reason(size=128, page=128, dtype=jnp.bfloat16, heads=8):
    q = shape((1, heads, size), dtype)
    pools = shape((4, 2, size, page), jnp.bfloat16), shape((4, 2, page, size), jnp.bfloat16)
    return mosaic_gpu.refuse(q, *pools, p, None, window=None)

  assert reason() is None
  assert 'got 16 of 128' in reason(page=16)
  assert 'got float32, bfloat16' in reason(dtype=jnp.float32)
  assert 'got 65' in reason(heads=130)
