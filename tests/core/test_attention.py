"""Attention implementations against the definition written out in float64 numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core import attention as lib
from core.attention import Keys, attention


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


@settings(max_examples=6, deadline=None, derandomize=True)
@given(problems())
def test_reference_and_chunked_equal_the_definition(problem):
  q, k, v, at, segments, window, sinks = problem
  want = definition(*problem)
  f32 = lambda x: None if x is None else np.asarray(x, np.float32)
  for implementation in ('reference', 'chunked'):
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


@pytest.mark.parametrize('window, sinks, packed', [(None, False, False), (5, True, False), (5, True, True)])
def test_chunked_equals_reference_with_gradients(window, sinks, packed, monkeypatch):
  monkeypatch.setattr(lib, 'QUERY_BLOCK', 8)
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


def test_bfloat16_needs_no_accelerator():
  x = jnp.ones((1, 4, 2, 8), jnp.bfloat16)
  keys = Keys(jnp.ones((1, 2, 4, 8), jnp.bfloat16), jnp.ones((1, 2, 4, 8), jnp.bfloat16))
  assert (attention(x, [keys], causal=False) == 1).all()


@pytest.mark.parametrize('implementation', ['reference', 'chunked'])
def test_bidirectional_attention_never_reads_padded_keys(implementation, monkeypatch):
  """Padding in the middle, holding values that would show; the definition without it, on the keys that remain."""
  monkeypatch.setattr(lib, 'QUERY_BLOCK', 2)
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
