"""The sampler of a flow policy: images of prompts, and the steps of their paths that are trained.

R images   T steps   M trained steps
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from core import mesh as mesh_lib
from core import padding
from core.engine import layout
from core.mesh import Mesh, Share
from rl.flow import sampling

START, STEPS = 0, 1  # separate streams of random numbers


class Wanted(NamedTuple):
  """Images to sample, one a row.

  seeds: int [R], of the noise of steps. starts: int [R], of the noise that a path starts from. picks: int32 [R, M], the
  steps to return.
  """

  prompts: Sequence[Any]
  seeds: Sequence[int]
  starts: Sequence[int]
  picks: np.ndarray


class Sampled(NamedTuple):
  """images: [R], as the policy decodes them. logp: float32 [R, M]. Others: float32 [R, M, …], as in FlowTrajectory."""

  images: Sequence[Any]
  logp: np.ndarray
  states: np.ndarray
  following: np.ndarray
  means: np.ndarray


class PathEngine:
  """Samples `rows` images at a time, padded to that number, so that one program is compiled."""

  def __init__(self, policy: Any, weights: Any, home: Mesh | Share, rows: int):
    self._policy = policy
    self._rows = rows
    self._home = home if isinstance(home, Share) else Share(home, home)
    self._mesh = self._home.mesh
    self._program = jax.jit(functools.partial(_paths, policy=policy))
    self.update(weights)

  def update(self, weights: Any) -> None:
    """Samples from these weights, in their dtype, from now on. A copy: the next update may donate the originals."""
    spec = self._policy.spec()
    if self._home.count == 1:
      placed = jax.device_put(weights, mesh_lib.shardings(spec, self._mesh))
    else:
      placed = layout.put(weights, spec, self._home)  # each engine holds all weights
    with jax.set_mesh(self._mesh):
      self._weights = jax.tree.map(jnp.copy, placed)

  def __call__(self, wanted: Wanted, stochastic: np.ndarray) -> Sampled:
    """stochastic: bool [T], the steps that add noise. An image depends on its own row alone."""
    spans = range(0, len(wanted.prompts), self._rows)
    parts = []
    for at in spans:
      rows = Wanted(*(x[at : at + self._rows] for x in wanted))
      parts.append(self._part(rows, stochastic))
    latents, *others = (np.concatenate(column) for column in zip(*parts))
    return Sampled(self._policy.decode(latents), *others)

  def _part(self, wanted: Wanted, stochastic: np.ndarray) -> list[np.ndarray]:
    n = len(wanted.prompts)
    arrays = (
      np.stack([prompt.context for prompt in wanted.prompts]),
      np.stack([prompt.pooled for prompt in wanted.prompts]),
      np.asarray([seed % 2**32 for seed in wanted.seeds], np.uint32),
      np.asarray([seed % 2**32 for seed in wanted.starts], np.uint32),
      np.asarray(wanted.picks),
    )
    full = [padding.repeat_last(x, self._rows) for x in arrays]
    placed = [jax.device_put(x, mesh_lib.batch_sharding(x, self._mesh)) for x in full]
    with jax.set_mesh(self._mesh):
      out = self._program(self._weights, *placed, np.asarray(stochastic))
    return [mesh_lib.to_local(x)[:n] for x in out]


def _paths(weights, context, pooled, seeds, starts, picks, stochastic, *, policy):
  """(clean latents [R, …], logp [R, M], states, following and means [R, M, …])."""
  draw = lambda stream, seed: jax.random.fold_in(jax.random.key(stream), seed)
  begin = jax.vmap(lambda seed: jax.random.normal(draw(START, seed), policy.latent))(starts)
  keys = jax.vmap(functools.partial(draw, STEPS))(seeds)
  move = lambda x, time: policy.velocity(weights, x, time, context, pooled)
  options = policy.options
  path = sampling.sample(move, begin, options.schedule, noise=options.noise, keys=keys, stochastic=stochastic)
  rows = jnp.arange(len(seeds))[:, None]
  states = path.states[picks, rows]
  following = path.states[picks + 1, rows]
  return path.clean, path.logp[picks, rows], states, following, path.mean[picks, rows]
