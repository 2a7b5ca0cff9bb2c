"""Products of activations with plain weights, and what they cost a CPU in the backward pass."""

import functools
import math

import jax
import jax.numpy as jnp

from kernels import dispatch
from kernels.dispatch import Implementation


def product(eqn: str, x: jax.Array, w: jax.Array) -> jax.Array:
  """`jnp.einsum(eqn, x, w)`, whose gradients on a CPU are products of two matrices where that is faster."""
  if _refuse(x, w, eqn=eqn) or _decline(x, w, eqn=eqn):
    return jnp.einsum(eqn, x, w)
  return _product(eqn, x, w)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _product(eqn: str, x: jax.Array, w: jax.Array) -> jax.Array:
  return jnp.einsum(eqn, x, w)


def _forward(eqn: str, x: jax.Array, w: jax.Array):
  return jnp.einsum(eqn, x, w), (x, w)


def _backward(eqn: str, kept: tuple[jax.Array, jax.Array], gradient: jax.Array):
  return TABLE.call(*kept, gradient, implementation=None, default='einsum', eqn=eqn)


_product.defvjp(_forward, _backward)


def _einsum(x: jax.Array, w: jax.Array, gradient: jax.Array, *, eqn: str) -> tuple[jax.Array, jax.Array]:
  """Gradients of x and w."""
  product = functools.partial(jnp.einsum, eqn)
  _, pull = jax.vjp(product, x, w)
  return pull(gradient)


def _merged(x: jax.Array, w: jax.Array, gradient: jax.Array, *, eqn: str) -> tuple[jax.Array, jax.Array]:
  """Gradients of x and w, from matrices [rows, inputs], [inputs, outputs] and [rows, outputs].

  That of w is then a sum over one axis. Over two, XLA for CPU first copies both sides in transposed order, as slow as
  the product.
  """
  summed = len(_summed(eqn))
  inputs = math.prod(w.shape[:summed])
  rows = x.reshape(-1, inputs)
  matrix = w.reshape(inputs, -1)
  slopes = gradient.reshape(len(rows), -1)
  of_x = (slopes @ matrix.T).reshape(x.shape)
  of_w = (rows.T @ slopes).reshape(w.shape)
  return of_x.astype(x.dtype), of_w.astype(w.dtype)


def _summed(eqn: str) -> str | None:
  """The summed axes, if they are x's last and w's first, and w's others are the result's last."""
  operands, out = eqn.split('->')
  x_dims, w_dims = operands.split(',')
  summed = ''.join(c for c in w_dims if c not in out)
  kept = w_dims.removeprefix(summed)
  rows = x_dims.removesuffix(summed)
  if not summed or not kept:
    return None
  if (x_dims, w_dims, out) != (rows + summed, summed + kept, rows + kept):
    return None
  return summed


def _refuse(x: jax.Array, w: jax.Array, gradient: jax.Array | None = None, *, eqn: str) -> str | None:
  if _summed(eqn) is None:
    return f'{eqn}: summed axes are not the last of x and the first of w'
  return None


def _decline(x: jax.Array, w: jax.Array, gradient: jax.Array | None = None, *, eqn: str) -> str | None:
  if x.ndim == w.ndim == 2:
    return 'matrices already'
  if jax.sharding.get_abstract_mesh().size > 1:
    return 'axes that are merged may both be sharded'
  return None


TABLE = dispatch.Table(
  'gradients of a product',
  {
    'einsum': Implementation(_einsum),
    'merged': Implementation(_merged, platform='cpu', refuse=_refuse, decline=_decline),
  },
)
