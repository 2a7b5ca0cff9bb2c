"""A tiny decoder whose weights are all drawn, and its tokens, for the tests of interpretability."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from core import decoder, params

CONFIG = decoder.Config(
  vocab=30, width=16, depth=3, heads=4, kv_heads=2, head_dim=4, mlp_width=24, norm_eps=1e-6, rope_theta=1e4
)
TOKENS = np.random.default_rng(0).integers(0, 30, (2, 6)).astype(np.int32)
OTHER = np.random.default_rng(1).integers(0, 30, (2, 6)).astype(np.int32)


def _drawn() -> decoder.Params:
  """Parameters none of which is at its initial zero or one."""
  shapes, tree = jax.tree.flatten(params.abstract(decoder.spec(CONFIG)))
  r = np.random.default_rng(2)
  return jax.tree.unflatten(tree, [jnp.asarray(0.4 * r.standard_normal(s.shape), jnp.float32) for s in shapes])


WEIGHTS = _drawn()


@functools.partial(jax.jit, static_argnames=('edit', 'keep'))
def apply(tokens, *, edit=None, keep=()) -> decoder.Output:
  """`decoder.apply` of the tiny model, compiled."""
  return decoder.apply(WEIGHTS, CONFIG, tokens, edit=edit, keep=keep)
