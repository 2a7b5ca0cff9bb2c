"""Tree attention against a float64 softmax over each row's own tokens, on random trees."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels import tree_attention
from kernels.tree.plan import from_table, plan

PAGE, POOL, HEADS, SIZE, ROWS, CAPACITY = 4, 64, 2, 8, 12, 48


def tree(r, rows, page=PAGE):
  """Random tables whose pages are shared as a tree's: children copy a prefix of their parent's table."""
  free = list(r.permutation(POOL))
  tables = []
  for _ in range(rows):
    kind = r.random()
    if kind < 0.15:
      tables.append([])
      continue
    base = tables[r.integers(len(tables))] if tables and kind < 0.75 else []
    own = min(int(r.integers(0, 5)), len(free))
    tables.append(base[: r.integers(0, len(base) + 1)] + [free.pop() for _ in range(own)])
  lengths = np.array([0 if not t else int(r.integers(0, len(t) * page + 1)) for t in tables], np.int32)
  return tables, lengths


def expected(q, k, v, tables, lengths, window, sinks):
  """Row by row and head by head in float64."""
  n, size = q.shape[1:]
  heads, page = v.shape[1:3]
  out, lse = np.zeros(q.shape), np.full(q.shape[:2], -np.inf)
  for r, (table, length) in enumerate(zip(tables, lengths)):
    for head in range(n):
      key = head * heads // n
      first = 0 if window is None else max(length - window, 0)
      keys = [k[table[t // page], key, :, t % page] for t in range(first, length)]
      values = [v[table[t // page], key, t % page] for t in range(first, length)]
      s = np.array(
        [q[r, head].astype(np.float64) @ x / np.sqrt(size) for x in keys] + ([] if sinks is None else [sinks[head]]),
        np.float64,
      )
      if len(s):
        lse[r, head] = np.log(np.exp(s).sum())
        out[r, head] = sum((np.exp(x - lse[r, head]) * y for x, y in zip(s, values)), np.zeros(size))
  return out, lse


def arrays(r, groups, tables, lengths, page=PAGE, size=SIZE):
  """Random q, k, v; NaN in all places that no row reads."""
  q = r.standard_normal((len(tables), HEADS * groups, size)).astype(np.float32)
  k, v = (r.standard_normal((POOL, HEADS, page, size)).astype(np.float32) for _ in range(2))
  read = np.zeros((POOL, page), bool)
  for table, length in zip(tables, lengths):
    for t in range(length):
      read[table[t // page], t % page] = True
  for x in (k, v):
    x[np.broadcast_to(~read[:, None, :, None], x.shape)] = np.nan
  return q, np.swapaxes(k, 2, 3), v


@functools.partial(jax.jit, static_argnames=('window', 'implementation'))
def call(q, k, v, p, sinks=None, *, window=None, implementation):
  return tree_attention(q, k, v, p, window=window, sinks=sinks, implementation=implementation)


@pytest.mark.parametrize('implementation', ['reference', 'xla', 'xla_cpu'])
@pytest.mark.parametrize('groups,window,sunk', [(1, None, False), (4, None, True), (7, 6, False), (2, 3, True)])
def test_equals_float64_softmax(implementation, groups, window, sunk):
  r = np.random.default_rng(groups)
  for _ in range(12):
    tables, lengths = tree(r, ROWS)
    q, k, v = arrays(r, groups, tables, lengths)
    sinks = r.standard_normal(HEADS * groups).astype(np.float32) if sunk else None
    p = plan(tables, lengths, page_size=PAGE, capacity=CAPACITY)
    out, lse = call(q, k, v, p, sinks, window=window, implementation=implementation)
    want, want_lse = expected(q, k, v, tables, lengths, window, sinks)
    np.testing.assert_allclose(out, want, rtol=2e-5, atol=2e-6)
    np.testing.assert_allclose(lse, want_lse, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize('page', [1, 20, 64])
def test_pages_of_any_size_on_a_cpu(page):
  """Small pages are joined: as many as divide a block of items."""
  r = np.random.default_rng(page)
  tables, lengths = tree(r, 40, page=page)
  q, k, v = arrays(r, 2, tables, lengths, page=page)
  got = call(q, k, v, plan(tables, lengths, page_size=page), implementation='xla_cpu')
  for one, want in zip(got, expected(q, k, v, tables, lengths, None, None)):
    np.testing.assert_allclose(one, want, rtol=2e-5, atol=2e-6)


def test_order_of_rows_does_not_matter():
  r = np.random.default_rng(5)
  tables, lengths = tree(r, ROWS)
  q, k, v = arrays(r, 2, tables, lengths)
  out = call(q, k, v, plan(tables, lengths, page_size=PAGE, capacity=CAPACITY), implementation='xla')[0]
  order = r.permutation(ROWS)
  again = plan([tables[i] for i in order], lengths[order], page_size=PAGE, capacity=CAPACITY)
  np.testing.assert_allclose(call(q[order], k, v, again, implementation='xla')[0], out[order], rtol=1e-5, atol=1e-6)


def test_bfloat16_and_growing_lengths():
  """Lengths replaced under one plan, as a decoding loop does, give what a fresh plan gives."""
  r = np.random.default_rng(6)
  tables, _ = tree(r, ROWS)
  full = np.array([len(t) * PAGE for t in tables], np.int32)
  q, k, v = (jnp.asarray(x, jnp.bfloat16) for x in arrays(r, 2, tables, full))
  p = plan(tables, full, page_size=PAGE, capacity=CAPACITY)
  for short in (0, 1, 5):
    lengths = np.maximum(full - short, 0)
    got = call(q, k, v, p.replace(lengths=lengths), implementation='xla')[0]
    want, _ = expected(*(np.asarray(x, np.float64) for x in (q, k, v)), tables, lengths, None, None)
    assert got.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(got, np.float32), want, atol=0.03)


def test_every_page_is_read_once():
  r = np.random.default_rng(7)
  for _ in range(20):
    tables, lengths = tree(r, int(r.integers(1, 40)))
    p = plan(tables, lengths, page_size=PAGE)
    assert sorted(p.page[used(p)]) == sorted({page for t in tables for page in t})
    for (page, start), rows in readers(p).items():
      assert rows == [row for row in range(len(tables)) if page in tables[row]]
      assert all(tables[row][start // PAGE] == page for row in rows)


def test_the_numbers_of_pages_change_no_bit():
  """A plan lists the same work in the same order for any page numbers."""
  r = np.random.default_rng(10)
  for rows in (1, 5, ROWS, 40):
    tables, lengths = tree(r, rows)
    moved = r.permutation(POOL)
    p, again = (
      plan(pages, lengths, page_size=PAGE) for pages in (tables, [[int(moved[page]) for page in t] for t in tables])
    )
    np.testing.assert_array_equal(moved[p.page[used(p)]], again.page[used(again)])
    for name in ('start', 'first', 'readers', 'ends', 'order', 'place'):
      np.testing.assert_array_equal(getattr(p, name), getattr(again, name))


def test_plans_of_one_capacity_share_a_program():
  r = np.random.default_rng(8)
  q, k, v = arrays(r, 2, [[0]] * ROWS, [PAGE] * ROWS)
  step = jax.jit(lambda *a: tree_attention(*a))
  for _ in range(5):
    step(q, k, v, plan(*tree(r, ROWS), page_size=PAGE, capacity=CAPACITY))
  assert step._cache_size() == 1


def test_impossible_calls_are_refused():
  r = np.random.default_rng(9)
  q, k, v = arrays(r, 2, [[0]], [1])
  p = plan([[0]], [1], page_size=PAGE)
  with pytest.raises(ValueError, match='page 3 follows different pages'):
    plan([[3, 1], [2, 3]], [1, 1], page_size=PAGE)
  with pytest.raises(ValueError, match='exceed the capacity'):
    plan([[2 * i] for i in range(20)], [1] * 20, page_size=PAGE, capacity=16)
  with pytest.raises(ValueError, match="'cuda'"):
    tree_attention(q, k, v, p, implementation='cuda')
  with pytest.raises(ValueError, match='does not fit'):
    tree_attention(q[..., :4], k, v, p)
  with pytest.raises(ValueError, match='2 rows'):
    tree_attention(np.concatenate([q, q]), k, v, p)


def used(p):
  """Which items of a plan are not padding."""
  return (p.readers > 0) & (np.arange(len(p.page)) < p.ends[-1])


def readers(p):
  """(page, start) → the rows that read it, in order."""
  lists = (x[used(p)].tolist() for x in (p.page, p.start, p.first, p.readers))
  return {(page, start): sorted(p.order[first : first + count].tolist()) for page, start, first, count in zip(*lists)}


def test_tables_of_runs_give_the_plan_of_each_row():
  """Neighbouring rows that read one table, as prompt tokens do, have the same plan as if each listed the table."""
  r = np.random.default_rng(8)
  for _ in range(20):
    tables, _ = tree(r, int(r.integers(1, 9)))
    runs = r.integers(1, 30, len(tables))
    counts = np.array([len(t) for t in tables])
    table = np.zeros((len(tables), counts.max()), np.int32)
    for row, pages in zip(table, tables):
      row[: len(pages)] = pages
    rows = int(runs.sum())
    got = from_table(table, counts, runs, np.zeros(rows), page_size=PAGE, capacity=None)
    repeated = [pages for pages, run in zip(tables, runs) for _ in range(run)]
    want = plan(repeated, [0] * rows, page_size=PAGE)
    assert readers(got) == readers(want)
    np.testing.assert_array_equal(got.ends, want.ends)
