"""A running average of trained weights (EMA), kept in the optimiser's state: sharded, saved and resumed with it."""

import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from core.params import path_name


class Average(NamedTuple):
  """weights: the tree of the trained weights, None for those that are not averaged."""

  weights: Any


def averaged(tx: optax.GradientTransformation, decay: float, pattern: str) -> optax.GradientTransformation:
  """`tx`, and the average a <- decay a + (1 - decay) w of each weight w whose name matches `pattern`, after its update.

  The average begins with the first weights. `init` raises ValueError when nothing matches.
  """

  def init(params):
    def chosen(path, w):
      return jnp.copy(w) if re.fullmatch(pattern, path_name(path)) else None  # a step donates both

    weights = jax.tree.map_with_path(chosen, params)
    if not jax.tree.leaves(weights):
      raise ValueError(f'average of {pattern!r}: it matches none of the trained weights')
    return Average(weights)

  def update(updates, state, params=None):
    def step(average, w, change):
      if average is None:
        return None
      return decay * average + (1 - decay) * (w + change)

    return updates, Average(_map(step, state.weights, params, updates))

  return optax.chain(tx, optax.GradientTransformation(init, update))


def replaced(params: Any, opt_state: Any) -> Any:
  """The trained weights, with the average in place of each one that has one."""
  average = optax.tree.get(opt_state, 'Average')
  return _map(lambda mean, w: w if mean is None else mean.astype(w.dtype), average.weights, params)


def _map(fn, *trees: Any) -> Any:
  """`jax.tree.map` to which None is a leaf."""
  return jax.tree.map(fn, *trees, is_leaf=lambda x: x is None)
