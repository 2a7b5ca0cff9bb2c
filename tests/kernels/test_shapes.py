"""The catalogue is what the models use, and implementations agree on every shape in it."""

import jax.numpy as jnp
import numpy as np
import pytest

import vibevoice
from core import decoder
from core.engine import EngineSize
from kernels import shapes, tree_attention
from kernels.tree.plan import plan


def test_the_catalogue_is_what_the_decoders_use():
  used = {
    name: shapes.Shape(
      query_heads=c.heads,
      key_heads=c.kv_heads,
      head_size=c.head_dim,
      window=next((w for w in c.windows if w is not None), None),
      sinks=c.sinks,
    )
    for name, c in decoder.CONFIGS.items()
  }
  assert used == shapes.ATTENTION
  assert EngineSize().page_size == shapes.PAGE_SIZE


@pytest.mark.parametrize('shape', sorted(set(shapes.ATTENTION.values()), key=repr), ids=repr)
def test_xla_equals_the_reference(shape):
  """Two rows share 9 pages, past any window; one ends inside a page and one is alone."""
  size, pages = shapes.PAGE_SIZE, 12
  tables, lengths = [[*range(9), 9], [*range(9), 10], [11]], [9 * size + 5, 10 * size, 3]
  r = np.random.default_rng(0)
  draw = lambda *dims: jnp.asarray(r.standard_normal(dims), jnp.float32)
  q = draw(3, shape.query_heads, shape.head_size)
  k = draw(pages, shape.key_heads, shape.head_size, size)
  v = draw(pages, shape.key_heads, size, shape.head_size)
  sinks = draw(shape.query_heads) if shape.sinks else None
  p = plan(tables, lengths, page_size=size)
  got, want = (
    tree_attention(q, k, v, p, window=shape.window, sinks=sinks, implementation=name) for name in ('xla', 'reference')
  )
  for a, b in zip(got, want):
    np.testing.assert_allclose(a, b, atol=2e-5, rtol=2e-5)


def test_the_catalogue_is_what_the_speech_models_use():
  heads = {name: c.head for name, c in vibevoice.CONFIGS.items() if not name.startswith('tiny')}
  assert {head.width for head in heads.values()} == set(shapes.HEAD.values())
  assert all(head.mlp_width == 3 * head.width and (head.depth, head.latent) == (4, 64) for head in heads.values())
