"""The grouped experts against a plain float64 loop over tokens."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core import moe, params


def definition(p, x, config):
  """Each token through its own experts, one after another."""
  p = jax.tree.map(lambda w: np.asarray(w, np.float64), p)
  zero = lambda b, e: 0 if b is None else b[e]
  out = np.zeros(x.shape)
  for at in np.ndindex(x.shape[:-1]):
    token = x[at].astype(np.float64)
    logits = token @ p.router + (0 if p.router_bias is None else p.router_bias)
    chosen = np.argsort(-logits)[: config.top_k]
    weights = np.exp(logits - logits.max())[chosen]
    weights /= weights.sum()
    for e, weight in zip(chosen, weights):
      gate, up = token @ p.gate[e] + zero(p.gate_bias, e), token @ p.up[e] + zero(p.up_bias, e)
      if config.activation == 'silu':
        hidden = gate / (1 + np.exp(-gate)) * up
      else:
        gate, up = np.minimum(gate, 7), np.clip(up, -7, 7)
        hidden = (up + 1) * gate / (1 + np.exp(-1.702 * gate))
      out[at] += weight * (hidden @ p.down[e] + zero(p.down_bias, e))
  return out


def drawn(config, width=10, scale=1.0):
  spec = moe.spec(config, width)
  leaves, tree = jax.tree.flatten(params.init(jax.random.key(0), spec))
  r = np.random.default_rng(0)
  return jax.tree.unflatten(tree, [jnp.asarray(scale * r.standard_normal(w.shape), jnp.float32) for w in leaves])


@pytest.mark.parametrize('top_k', [1, 3, 7])
@pytest.mark.parametrize('activation, bias', [('silu', False), ('clamped', True)])
def test_grouped_experts_equal_a_loop(activation, bias, top_k):
  config = moe.Config(experts=7, top_k=top_k, width=6, activation=activation, bias=bias)
  p = drawn(config)
  x = np.random.default_rng(1).standard_normal((2, 5, 10)).astype(np.float32)
  got, _, chosen = moe.moe(p, x, config)
  want = definition(p, x, config)
  assert np.abs(got - want).max() <= 1e-5 * np.abs(want).max()
  assert chosen.shape == (2, 5, top_k)


@pytest.mark.slow
def test_unused_experts_get_no_gradient_and_change_nothing():
  config = moe.Config(experts=6, top_k=2, width=6)
  p = drawn(config)
  p = p.replace(router=p.router.at[:, 4:].set(0))
  x = np.abs(np.random.default_rng(1).standard_normal((1, 8, 10))).astype(np.float32)
  p = p.replace(router=p.router.at[:, :2].set(3.0))  # two experts take every token
  loss = lambda p: (moe.moe(p, x, config)[0] ** 2).sum()
  grads = jax.grad(loss)(p)
  for g in (grads.gate, grads.up, grads.down):
    assert (np.abs(g[:2]).max((1, 2)) > 0).all() and (g[2:] == 0).all()
  other = p.replace(gate=p.gate.at[2:].multiply(-9), up=p.up.at[2:].add(50), down=p.down.at[2:].set(7))
  np.testing.assert_array_equal(moe.moe(p, x, config)[0], moe.moe(other, x, config)[0])


def test_balance_is_one_when_even_and_grows_when_not():
  balance = lambda *layer: moe.balance(moe.load(*layer)[None])
  chosen = jnp.arange(8).reshape(1, 8, 1) % 4
  even = balance(jnp.zeros((1, 8, 4)), chosen, jnp.ones((1, 8)))
  assert even == pytest.approx(1)
  logits = jnp.zeros((1, 8, 4)).at[..., 0].set(10.0)
  assert balance(logits, jnp.zeros((1, 8, 1), int), jnp.ones((1, 8))) > 3.9
  half = balance(logits.at[:, 4:].set(-1e4), jnp.zeros((1, 8, 1), int), jnp.arange(8)[None] < 4)
  assert half == pytest.approx(4, abs=0.01), 'padding must not count'


def test_layers_that_lean_on_different_experts_are_balanced_together():
  """Every expert has the same load over both layers; layer by layer the loss would be 2."""
  loads = jnp.array([[[1.0, 0.0], [1.0, 0.0]], [[0.0, 1.0], [0.0, 1.0]]])
  assert moe.balance(loads) == pytest.approx(1)


def test_bad_sizes_are_refused():
  with pytest.raises(ValueError, match='top_k=5'):
    moe.Config(experts=4, top_k=5, width=3)
  with pytest.raises(ValueError, match='relu'):
    moe.Config(experts=4, top_k=2, width=3, activation='relu')


@pytest.mark.slow
def test_pieces_of_the_tokens_change_nothing(monkeypatch):
  config = moe.Config(experts=6, top_k=2, width=6)
  p, x = drawn(config), np.random.default_rng(1).standard_normal((2, 5, 10)).astype(np.float32)
  loss = lambda p, x: (moe.moe(p, x, config)[0] ** 2).sum()
  whole = jax.value_and_grad(loss, (0, 1))(p, x)
  monkeypatch.setattr(moe, 'CHUNK', 3)
  for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(jax.value_and_grad(loss, (0, 1))(p, x))):
    np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(a).max())
