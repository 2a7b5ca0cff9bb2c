"""Flow matching: the supervised phase of a flow model (arXiv 2210.02747, times as in arXiv 2403.03206 §3.1).

R rows   Y, X, C rows, columns and channels of latents   T text tokens
"""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from core import mesh
from core.launch.fields import field
from core.training import optim, steps
from core.training.optim import Optim
from core.training.run import Run, loop
from core.training.steps import Loss

EXAMPLES, NOISE = 4, 5  # separate streams of random numbers


@dataclasses.dataclass(frozen=True)
class Pretraining:
  """Flow matching before reinforcement learning."""

  steps: int = field(1500, 'updates; 0: none')
  batch: int = field(128, 'examples an update')
  drop: float = field(0.1, 'share of prompts that are left empty, for classifier-free guidance')
  optim: Optim = field(Optim('muon', lr=5e-3, schedule='cosine', warmup_steps=20), 'optimiser')

  def __post_init__(self):
    if self.steps < 0 or self.batch < 1 or not 0 <= self.drop < 1:
      sizes = f'steps={self.steps}, batch={self.batch}, drop={self.drop}'
      raise ValueError(f'{sizes}: expected 0, 1 or more, and a share below 1')


@struct.dataclass
class Examples:
  """Data with noise. latents, noise: float32 [R, Y, X, C]. time: float32 [R]. context: [R, T, D]. pooled: [R, P]."""

  latents: Any
  noise: Any
  time: Any
  context: Any
  pooled: Any


Draw = Callable[[np.random.Generator, int], list[tuple[np.ndarray, str]]]  # n pairs of latents and caption


def examples(policy: Any, draw: Draw, phase: Pretraining, seed: int, step: int) -> Examples:
  """The batch of a step, a function of its arguments: times are logit-normal, some prompts are empty."""
  rng = np.random.default_rng((EXAMPLES, seed, step))
  latents, captions = zip(*draw(rng, phase.batch))
  dropped = rng.random(phase.batch) < phase.drop
  prompts = [policy.encode('' if empty else caption) for empty, caption in zip(dropped, captions)]
  return Examples(
    latents=np.stack(latents),
    noise=rng.normal(size=(phase.batch, *policy.latent)).astype(np.float32),
    time=np.float32(1 / (1 + np.exp(-rng.normal(size=phase.batch)))),
    context=np.stack([prompt.context for prompt in prompts]),
    pooled=np.stack([prompt.pooled for prompt in prompts]),
  )


def matching_loss(weights: Any, batch: Examples, key: Any, *, policy: Any, remat: str = 'none') -> Loss:
  """The sum over examples of mean((v − (x_1 − x_0))²)."""
  t = batch.time[:, None, None, None]
  x = (1 - t) * batch.latents + t * batch.noise
  v = policy.plain_velocity(weights, x, batch.time, batch.context, batch.pooled, remat=remat)
  errors = jnp.mean(jnp.square(v - (batch.noise - batch.latents)), (1, 2, 3))
  return Loss(errors.sum(), jnp.float32(errors.shape[0]))


def pretrain(
  policy: Any, weights: Any, draw: Draw, phase: Pretraining, workdir: pathlib.Path, place: mesh.Mesh, claim: Any
) -> Any:
  """The weights after flow matching, on the mesh `place`; a stopped phase continues in `workdir`/pretraining."""
  if not phase.steps:
    return weights
  tx = optim.optimizer(phase.optim, phase.steps, policy.spec())
  state = steps.init_state(weights, tx)
  loss = lambda weights, batch, key: matching_loss(weights, batch, key, policy=policy)
  step = steps.make_step(loss, tx, places=jax.tree.map(lambda x: x.sharding, state))
  share = lambda x: mesh.process_local(x)

  def advance(state, i):
    batch = jax.tree.map(share, examples(policy, draw, phase, claim.seed, i))
    return step(state, None, mesh.to_global(batch, place), jax.random.key(0))

  with jax.set_mesh(place), Run(workdir / 'pretraining', claim, every=max(1, phase.steps // 4)) as run:
    return loop(run, state, advance, phase.steps).params
