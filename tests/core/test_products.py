"""Gradients of products with plain weights on a CPU: which are merged, their values, and no transposed copies."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core import params
from core.params.products import TABLE


def draw(*shape, dtype=jnp.float32):
  return jnp.asarray(np.random.default_rng(len(shape)).standard_normal(shape), dtype)


def choice(eqn, x, w):
  return TABLE.choices(x, w, None, default='einsum', eqn=eqn)['cpu']


CASES = [
  ('btd,df->btf', (2, 3, 4), (4, 5)),
  ('btd,dnh->btnh', (2, 3, 4), (4, 2, 5)),
  ('btnh,nhd->btd', (2, 3, 2, 5), (2, 5, 4)),
  ('...d,df->...f', (2, 3, 2, 4), (4, 5)),
]


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize('eqn, x, w', CASES)
def test_merged_gradients_equal_those_of_einsum(eqn, x, w, dtype):
  """Operands of one dtype keep it; sums in another order differ by a rounding."""
  x, w = draw(*x, dtype=dtype), draw(*w, dtype=dtype)
  assert choice(eqn, x, w) == 'merged'
  want, pull = jax.vjp(lambda x, w: jnp.einsum(eqn, x, w), x, w)
  got, pulled = jax.vjp(lambda x, w: params.einsum(eqn, x, w), x, w)
  for a, b in zip((got, *pulled(got)), (want, *pull(want))):
    assert (a.shape, a.dtype) == (b.shape, b.dtype)
    np.testing.assert_allclose(
      np.float32(a), np.float32(b), rtol=4 * jnp.finfo(dtype).eps, atol=8 * jnp.finfo(dtype).eps
    )


def test_products_that_are_matrices_or_sharded_stay_whole():
  x, w = draw(2, 3, 4), draw(4, 5)
  assert 'matrices already' in choice('td,df->tf', x[0], w)
  assert 'not the last' in choice('btd,fd->btf', x, w.T)
  assert 'not the last' in choice('bed,edf->bef', x, draw(3, 4, 5))
  with jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((2,), ('data',))):
    assert 'sharded' in choice('btd,df->btf', x, w)


def test_the_gradient_of_a_weight_copies_no_activation():
  """What makes merged products faster, in the compiled program; `jnp.einsum` writes transposed copies."""
  x, w = draw(8, 64, 32), draw(32, 48)

  def copies(product):
    gradient = jax.jit(jax.grad(lambda w, x: jnp.sum(product('btd,df->btf', x, w) ** 2)))
    text = gradient.lower(w, x).compile().as_text()
    shapes = re.findall(r'f32\[([\d,]+)\][^=\n]* (?:copy|transpose)\(', text)
    return [shape for shape in shapes if np.prod([int(n) for n in shape.split(',')]) >= x.size]

  assert not copies(params.einsum)
  assert copies(jnp.einsum)
