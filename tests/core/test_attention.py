"""Attention implementations against the definition written out in float64 numpy."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.attention import Keys, attention, cudnn, sizes, triangle
from core.attention import subtrees as trees
from core.attention.keys import How
from core.attention.multihead import TABLE


def definition(q, k, v, positions, segments, window, sinks):
  """Softmax attention, one query at a time."""
  b, t, n, h = q.shape
  group = n // k.shape[1]
  out = np.zeros(q.shape)
  for row, i, head in np.ndindex(b, t, n):
    see = (positions[row] >= 0) & (positions[row] <= positions[row, i])
    if window is not None:
      see &= positions[row, i] - positions[row] < window
    if segments is not None:
      see &= segments[row] == segments[row, i]
    if not see.any():
      continue
    scores = k[row, head // group, see] @ q[row, i, head] / np.sqrt(h)
    top = max(scores.max(), sinks[head] if sinks is not None else -np.inf)
    weights = np.exp(scores - top)
    total = weights.sum() + (np.exp(sinks[head] - top) if sinks is not None else 0)
    out[row, i, head] = weights @ v[row, head // group, see] / total
  return out


@st.composite
def problems(draw):
  """Random shapes with padding on either side or packed segments, a window or none, sinks or none."""
  t = draw(st.sampled_from([3, 17, 24]))
  seed, kind = draw(st.integers(0, 2**16)), draw(st.sampled_from(['plain', 'left', 'right', 'packed']))
  r = np.random.default_rng(seed)
  heads, group, h = r.integers(1, 3), r.integers(1, 3), 2 * r.integers(1, 5)
  q, k, v = (r.standard_normal(s) for s in ((2, t, heads * group, h), (2, heads, t, h), (2, heads, t, h)))
  at = np.tile(np.arange(t), (2, 1))
  segments = None
  if kind == 'left':
    at[0] = np.where(np.arange(t) < 2, -1, np.arange(t) - 2)
  elif kind == 'right':
    at[0, t - 1 :] = -1
  elif kind == 'packed':
    cut = t // 2
    segments = np.where(np.arange(t) < cut, 1, 2)[None].repeat(2, 0)
    at = np.where(segments == 1, at, at - cut)
  sinks = r.standard_normal(heads * group) if draw(st.booleans()) else None
  return q, k, v, at, segments, draw(st.sampled_from([None, 1, 4])), sinks


@pytest.mark.slow
@settings(max_examples=6, deadline=None, derandomize=True)
@given(problems())
def test_implementations_equal_the_definition(problem):
  q, k, v, at, segments, window, sinks = problem
  want = definition(*problem)
  f32 = lambda x: None if x is None else np.asarray(x, np.float32)
  for implementation in ('reference', 'chunked', 'triangle'):
    got = attention(
      f32(q),
      [Keys(f32(k), f32(v), at, segments)],
      positions=at,
      segments=segments,
      window=window,
      sinks=f32(sinks),
      implementation=implementation,
    )
    np.testing.assert_allclose(np.asarray(got)[at >= 0], want[at >= 0], atol=2e-6)


@pytest.mark.slow
@pytest.mark.parametrize('window, sinks, packed', [(None, False, False), (5, True, False), (5, True, True)])
def test_chunked_equals_reference_with_gradients(window, sinks, packed, monkeypatch):
  monkeypatch.setattr(sizes, 'QUERY_BLOCK', 8)
  r = np.random.default_rng(0)
  b, t = 2, 21
  q, k, v, g = (
    r.standard_normal(s).astype(np.float32) for s in ((b, t, 4, 6), (b, 2, t, 6), (b, 2, t, 6), (b, t, 4, 6))
  )
  sink = r.standard_normal(4).astype(np.float32) if sinks else None
  segments = np.repeat([[1] * 9 + [2] * 12], b, 0) if packed else None
  at = np.repeat([[*range(9), *range(12)]], b, 0) if packed else np.tile(np.arange(t), (b, 1))

  def run(implementation):
    def f(q, k, v, sink):
      y = attention(
        q,
        [Keys(k, v, at, segments)],
        positions=at,
        segments=segments,
        window=window,
        sinks=sink,
        implementation=implementation,
      )
      return (y * g).sum(), y

    wrt = (0, 1, 2, 3) if sinks else (0, 1, 2)
    return jax.value_and_grad(f, wrt, has_aux=True)(q, k, v, sink)

  (_, y), grads = run('reference')
  (_, y2), grads2 = run('chunked')
  for a, b in zip((y, *grads), (y2, *grads2)):
    np.testing.assert_allclose(a, b, atol=2e-5)


def test_runs_of_keys_equal_one_run():
  r = np.random.default_rng(0)
  q, k, v = (jnp.asarray(r.standard_normal(s), jnp.float32) for s in ((2, 3, 4, 8), (2, 2, 9, 8), (2, 2, 9, 8)))
  at = np.tile(np.arange(9), (2, 1))
  whole = attention(q, [Keys(k, v, at)], positions=at[:, 6:])
  split = attention(
    q, [Keys(k[:, :, :6], v[:, :, :6], at[:, :6]), Keys(k[:, :, 6:], v[:, :, 6:], at[:, 6:])], positions=at[:, 6:]
  )
  np.testing.assert_allclose(whole, split, atol=1e-6)


def test_a_named_implementation_that_cannot_says_why():
  x = jnp.zeros((1, 3, 2, 8))
  keys = Keys(jnp.zeros((1, 2, 3, 8)), jnp.zeros((1, 2, 3, 8)))
  with pytest.raises(NotImplementedError, match='multiple of 64'):
    attention(x, [keys], causal=False, implementation='splash')
  with pytest.raises(NotImplementedError, match='CUDA'):
    attention(x, [keys], causal=False, implementation='cudnn')
  with pytest.raises(ValueError, match='flash'):
    attention(x, [keys], causal=False, implementation='flash')


@pytest.mark.parametrize('time,length', [(4, 4), (17, 17), (3, 8), (1, 9)])
@pytest.mark.parametrize('kind', ['causal', 'bidirectional', 'all'])
def test_cudnn_is_called_with_even_sizes_and_equals_the_reference(time, length, kind, monkeypatch):
  """cuDNN's place is taken by jax.nn's own arithmetic, which has the same masks and lengths."""
  attend = jax.nn.dot_product_attention
  called = []

  def stand_in(q, k, v, *, mask, key_value_seq_lengths, scale, implementation):
    called.append((q.shape[1], k.shape[1], mask is None or mask.shape[1:] == (1, q.shape[1], k.shape[1])))
    lengths = {'key_value_seq_lengths': key_value_seq_lengths}
    return attend(q, k, v, mask=mask, scale=scale, implementation='xla', **lengths)

  monkeypatch.setattr(jax.nn, 'dot_product_attention', stand_in)
  r = np.random.default_rng(0)
  draw = lambda *shape: jnp.asarray(r.standard_normal(shape), jnp.float32)
  arrays = draw(2, time, 4, 8), draw(2, 2, length, 8), draw(2, 2, length, 8)
  positions = jnp.arange(length)[None].repeat(2, 0)
  at = None if kind == 'all' else positions.at[1, 0].set(-1 if kind == 'bidirectional' else 0)
  ours = None if at is None else positions[:, length - time :]
  how = How(causal=kind == 'causal', window=None, divisor=2.0, rules={})

  def total(name):
    run = TABLE.implementations[name].run
    return lambda q, k, v: jnp.sum(run(q, (Keys(k, v, at),), ours, None, None, None, how=how) ** 2)

  grad = lambda name: jax.tree.leaves(jax.value_and_grad(total(name), (0, 1, 2))(*arrays))
  for a, b in zip(grad('cudnn'), grad('reference'), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-5)
  even = lambda n: n + n % 2
  assert called == [(even(time), even(length), True)]


def test_a_plugin_without_cudnn_is_refused(monkeypatch):
  def absent():
    raise RuntimeError('cuDNN not found.')

  monkeypatch.setattr(cudnn, 'library', lambda: types.SimpleNamespace(cudnn_get_version=absent))
  x = jnp.ones((1, 4, 2, 8), jnp.bfloat16)
  keys = Keys(jnp.ones((1, 2, 4, 8), jnp.bfloat16), jnp.ones((1, 2, 4, 8), jnp.bfloat16))
  with pytest.raises(NotImplementedError, match='and cuDNN'):
    attention(x, [keys], causal=False, implementation='cudnn')
  assert (attention(x, [keys], causal=False) == 1).all()


def test_bfloat16_needs_no_accelerator():
  x = jnp.ones((1, 4, 2, 8), jnp.bfloat16)
  keys = Keys(jnp.ones((1, 2, 4, 8), jnp.bfloat16), jnp.ones((1, 2, 4, 8), jnp.bfloat16))
  assert (attention(x, [keys], causal=False) == 1).all()


@pytest.mark.parametrize('implementation', ['reference', 'chunked'])
def test_bidirectional_attention_never_reads_padded_keys(implementation, monkeypatch):
  """Padding in the middle, holding values that would show; the definition without it, on the keys that remain."""
  monkeypatch.setattr(sizes, 'QUERY_BLOCK', 2)
  r = np.random.default_rng(0)
  q, k, v = (jnp.asarray(r.standard_normal(s), jnp.float32) for s in ((1, 5, 2, 8), (1, 2, 7, 8), (1, 2, 7, 8)))
  at = np.array([[0, -1, 1, -1, 2, 3, -1]])
  real = at[0] >= 0
  bias = jnp.asarray(r.standard_normal((1, 2, 5, 7)), jnp.float32)
  loud = jnp.where(real[:, None], v, 1e6)
  got = attention(q, [Keys(k, loud, at)], causal=False, bias=bias, scale=0.7, implementation=implementation)
  scores = 0.7 * np.einsum('tnh,nsh->nts', q[0], k[0][:, real]) + bias[0][:, :, real]
  weights = np.asarray(jax.nn.softmax(scores, -1))
  np.testing.assert_allclose(got[0], np.einsum('nts,nsh->tnh', weights, v[0][:, real]), atol=1e-5)


@pytest.mark.parametrize('dtype, error', [(jnp.float32, 2e-5), (jnp.bfloat16, 4e-2)])
@pytest.mark.parametrize(
  'kind, length, window, sinks',
  [('plain', 21, None, False), ('packed', 21, 5, True), ('left', 41, None, True), ('right', 9, 6, False)],
)
def test_triangle_equals_the_reference_with_gradients(kind, length, window, sinks, dtype, error, monkeypatch):
  """Blocks that do not divide the length, and at the limit of blocks; queries of padding are not compared."""
  monkeypatch.setattr(triangle, 'BLOCK', 4)
  r = np.random.default_rng(0)
  draw = lambda *shape: jnp.asarray(r.standard_normal(shape), dtype)
  q, g = draw(2, length, 4, 6), draw(2, length, 4, 6)
  k, v = draw(2, 2, length, 6), draw(2, 2, length, 6)
  sink = draw(4) if sinks else None
  at, segments = np.tile(np.arange(length), (2, 1)), None
  if kind == 'packed':
    segments = np.repeat([[1] * 9 + [2] * (length - 9)], 2, 0)
    at = np.where(segments == 1, at, at - 9)
  if kind == 'left':
    at = np.maximum(at - 7, -1)
  if kind == 'right':
    at = np.where(at < length - 2, at, -1)
  real = (at >= 0)[..., None, None]

  def run(implementation):
    def f(q, k, v, sink):
      keys = Keys(k, v, at, segments)
      options = {'window': window, 'sinks': sink, 'implementation': implementation}
      y = attention(q, [keys], positions=at, segments=segments, **options)
      y = jnp.where(real, y, 0)
      return (y * g).sum(), y

    wrt = (0, 1, 2, 3) if sinks else (0, 1, 2)
    return jax.value_and_grad(f, wrt, has_aux=True)(q, k, v, sink)

  (_, want), wanted = run('reference')
  (_, got), gradients = run('triangle')
  for a, b in zip((got, *gradients), (want, *wanted)):
    assert a.dtype == b.dtype
    scale = max(1, float(jnp.abs(b).max()))
    np.testing.assert_allclose(np.float32(a), np.float32(b), atol=error * scale)


def test_triangle_of_one_token_is_its_value():
  x, v = jnp.ones((1, 1, 2, 4)), jnp.arange(8.0).reshape(1, 2, 1, 4)
  at = np.zeros((1, 1), np.int32)
  got = attention(x, [Keys(v, v, at)], positions=at, implementation='triangle')
  np.testing.assert_allclose(got[0, 0], v[0, :, 0])


@pytest.mark.parametrize('dtype, error', [(jnp.float32, 2e-5), (jnp.bfloat16, 3e-2)])
def test_tiles_equal_the_reference_with_gradients(dtype, error, monkeypatch):
  """Two query heads a key head, and a last tile that is not full."""
  monkeypatch.setattr(sizes, 'TILE', 8)
  r = np.random.default_rng(0)
  q, k, v, g = (
    jnp.asarray(r.standard_normal(s), dtype) for s in ((2, 9, 4, 6), (2, 2, 7, 6), (2, 2, 7, 6), (2, 9, 4, 6))
  )

  def run(implementation):
    def f(q, k, v):
      y = attention(q, [Keys(k, v)], causal=False, scale=0.7, implementation=implementation)
      return (y * g).astype(jnp.float32).sum(), y

    return jax.value_and_grad(f, (0, 1, 2), has_aux=True)(q, k, v)

  (_, want), wanted = run('reference')
  (_, got), gradients = run('tiled')
  for a, b in zip((got, *gradients), (want, *wanted)):
    assert a.dtype == dtype
    np.testing.assert_allclose(a.astype(jnp.float32), b.astype(jnp.float32), atol=error, rtol=error)


def test_long_runs_on_one_cpu_go_by_tiles_and_triangles():
  def choice(time, causal=False, **options):
    x = np.zeros((1, time, 2, 4), np.float32)  # of numpy: jax 0.11 makes none under a mesh without devices
    at = np.zeros((1, time), np.int32) if causal else None
    keys = Keys(np.zeros((1, 2, time, 4)), np.zeros((1, 2, time, 4)), at)
    how = How(causal=causal, window=None, divisor=2.0, rules={})
    return TABLE.choices(x, (keys,), at, None, None, options.get('bias'), default='reference', how=how)['cpu']

  assert choice(600) == 'tiled'
  assert 'as fast whole' in choice(100)
  assert choice(600, causal=True) == 'triangle'
  assert choice(100, causal=True) != 'triangle' and choice(5000, causal=True) != 'triangle'
  assert 'bias' in choice(600, bias=jnp.zeros((1, 2, 600, 600)))
  with jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((2,), ('data',))):
    assert 'sharded' in choice(600) and choice(600, causal=True) != 'triangle'


def test_contradictions_are_refused():
  x, k = jnp.zeros((1, 3, 2, 8)), jnp.zeros((1, 2, 3, 8))
  at = np.arange(3)[None]
  ids = np.ones((1, 3), int)
  for keys, options, word in (
    (Keys(k, k), {}, 'causal attention needs positions'),
    (Keys(k, k, at, ids), {'causal': False, 'segments': ids}, 'segments need positions'),
    (Keys(k, k, at), {'positions': at, 'segments': ids}, 'segments of every run'),
    (Keys(k, k, at), {'causal': False, 'window': 2}, 'window=2 needs causal'),
  ):
    with pytest.raises(ValueError, match=word):
      attention(x, [keys], **options)


def tree_row(r, length):
  """(until, ancestors bool [length, length]) of a random row of trees with padding at the end."""
  used = int(r.integers(length // 2, length + 1))
  path, parents = [], []
  for i in range(used):
    keep = int(r.integers(0, len(path) + 1)) if r.random() < 0.3 else len(path)
    path = path[:keep]
    parents.append(path[-1] if path else -1)
    path.append(i)
  sees = np.zeros((length, length), bool)
  for i, parent in enumerate(parents):
    sees[i] = sees[parent] if parent >= 0 else False
    sees[i, i] = True
  later = np.where(sees, np.arange(1, length + 1)[:, None], 0)
  return later.max(0).astype(np.int32), sees


@pytest.mark.slow
@pytest.mark.parametrize('length, window, sinks', [(21, None, False), (150, None, True), (150, 9, False)])
def test_packed_trees_equal_the_definition(length, window, sinks):
  r = np.random.default_rng(length)
  rows = [tree_row(r, length) for _ in range(3)]
  until, sees = (np.stack(x) for x in zip(*rows))
  at = sees.sum(-1).astype(np.int32) - 1
  q, k, v = (r.standard_normal(s) for s in ((3, length, 4, 6), (3, 2, length, 6), (3, 2, length, 6)))
  sink = r.standard_normal(4) if sinks else None
  want = np.zeros(q.shape)
  for b, i, n in np.ndindex(3, length, 4):
    near = sees[b, i] & (at[b] > at[b, i] - window if window else True)
    if near.any():
      e = np.exp(k[b, n // 2, near] @ q[b, i, n] / np.sqrt(6))
      want[b, i, n] = e @ v[b, n // 2, near] / (e.sum() + (np.exp(sink[n]) if sinks else 0))
  f32 = lambda x: None if x is None else np.asarray(x, np.float32)
  blocks = trees.plan(until)
  for name, plan in (('reference', None), ('chunked', None), ('blocked', blocks), (None, blocks)):
    keys = Keys(f32(k), f32(v), at, subtrees=trees.Subtrees(until, plan))
    got = attention(f32(q), [keys], positions=at, window=window, sinks=f32(sink), implementation=name)
    np.testing.assert_allclose(np.asarray(got)[at >= 0], want[at >= 0], atol=3e-6, err_msg=str(name))


def test_packed_samples_are_trees_of_one_node():
  segments = np.array([[1, 1, 2, 2, 2, 0], [3, 3, 3, 3, 3, 3]])
  assert trees.of_segments(segments).tolist() == [[2, 2, 5, 5, 5, 0], [6] * 6]
  at = np.array([[0, 1, 0, 1, 2, -1], [0, 1, 2, 3, 4, 5]])
  q, k = np.random.default_rng(0).standard_normal((2, 2, 6, 2, 4)).astype(np.float32)
  k = np.swapaxes(k, 1, 2)
  packed = attention(q, [Keys(k, k, at, segments)], positions=at, segments=segments)
  tree = trees.Subtrees(trees.of_segments(segments))
  got = attention(q, [Keys(k, k, at, subtrees=tree)], positions=at)
  np.testing.assert_array_equal(np.asarray(got)[at >= 0], np.asarray(packed)[at >= 0])


def test_a_plan_lists_the_blocks_that_are_seen_and_no_other():
  r = np.random.default_rng(3)
  until, sees = tree_row(r, 500)
  blocks = trees.plan(until[None])[0]
  for number, listed in enumerate(blocks):
    rows = sees[number * trees.BLOCK : (number + 1) * trees.BLOCK]
    seen = {int(j) // trees.BLOCK for j in np.flatnonzero(rows.any(0))}
    assert seen <= set(listed.tolist())
    assert len(set(listed[listed >= 0].tolist())) == (listed >= 0).sum() <= number + 1
  with pytest.raises(ValueError, match='expected at most 1'):
    trees.plan(until[None], most=1)


def test_packed_trees_refuse_what_cannot_serve_them():
  x = np.zeros((1, 4, 2, 64), np.float32)
  keys = Keys(
    np.swapaxes(x, 1, 2), np.swapaxes(x, 1, 2), np.arange(4)[None], subtrees=trees.Subtrees(np.full((1, 4), 4))
  )
  at = np.arange(4)[None]
  for name in ('splash', 'blocked'):
    with pytest.raises(NotImplementedError, match='packed trees'):
      attention(x, [keys], positions=at, implementation=name)
  with pytest.raises(ValueError, match='expected one run'):
    attention(x, [keys, keys], positions=at)
  with pytest.raises(ValueError, match='neither segments'):
    attention(x, [keys.replace(segments=at)], positions=at, segments=at)
