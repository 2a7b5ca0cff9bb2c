"""Tiny flow models with weights that do something: published initial values are 0 in every modulation."""

import dataclasses

import jax
import numpy as np

from core.params import Spec
from core.params import init as draw
from rl.flow import mmdit


def redrawn(spec, seed=0):
  """Weights of a spec, all drawn from normals; those that start at constants too."""

  def plain(s):
    constant = s.init is not None and len(s.shape) - s.stack > 1
    return Spec(s.shape, s.axes, inputs=s.inputs) if constant else s

  key = jax.random.key(seed)
  params = draw(key, jax.tree.map(plain, spec))
  leaves, tree = jax.tree.flatten(params)
  noise = [w + 0.2 * jax.random.normal(jax.random.fold_in(key, i), w.shape) for i, w in enumerate(leaves)]
  return jax.tree.unflatten(tree, noise)


def transformer(name='tiny', **changes):
  """(config, params) of a tiny transformer."""
  config = dataclasses.replace(mmdit.CONFIGS[name], **changes)
  return config, redrawn(mmdit.spec(config))


def inputs(config, *, batch=2, rows=4, columns=6, tokens=3, seed=0):
  """Random latents, times, context and pooled text, and a guidance scale where the model wants one, by name."""
  rng = np.random.default_rng(seed)
  draw = lambda *shape: rng.standard_normal(shape).astype(np.float32)
  arrays = {
    'latents': draw(batch, rows, columns, config.channels),
    'time': np.linspace(0.2, 0.9, batch, dtype=np.float32),
    'context': draw(batch, tokens, config.text),
    'pooled': draw(batch, config.pooled),
  }
  return arrays | ({'guidance': np.full(batch, 3.5, np.float32)} if config.guidance else {})
