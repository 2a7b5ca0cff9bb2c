"""Steering: a direction added to the residual stream at every token, and directions to add."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from interp.sites import edits


def difference(positive: jax.Array, negative: jax.Array) -> jax.Array:
  """The difference of means [L, D] of activations [L, n, D] of two kinds of input (arXiv 2312.06681, eq. 1)."""
  return positive.mean(1) - negative.mean(1)


def add(direction: jax.Array, strength: float = 1.0) -> Callable:
  """A change that adds strength · direction [D] to every token."""
  return lambda x: x + jnp.asarray(strength * direction, x.dtype)


def remove(direction: jax.Array) -> Callable:
  """A change that projects direction [D] out of every token (arXiv 2406.11717, eq. 4)."""
  unit = direction / jnp.linalg.norm(direction)

  def change(x):
    along = jnp.einsum('...d,d->...', x.astype(jnp.float32), unit)
    return (x - along[..., None] * unit).astype(x.dtype)

  return change


def steered(directions: jax.Array, layers: tuple[int, ...], *, site: str = 'resid_out', strength: float = 1.0):
  """An `edit` that adds directions[layer], of [L, D], at `site` of the given layers."""
  changes = {(site, layer): add(directions[layer], strength) for layer in layers}
  return edits(changes, sites=(site,), depth=directions.shape[0])
