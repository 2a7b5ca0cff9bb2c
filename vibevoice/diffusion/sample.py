"""Latents from noise: `kernels.diffusion_head` with the weights of a model."""

import dataclasses

import jax

import kernels
from core.params import fold_for_kernels
from kernels.head.arguments import Guidance, Params, Steps
from vibevoice.diffusion import head
from vibevoice.diffusion.schedule import Schedule


def solver_steps(weights: Params, count: int) -> Steps:
  """`count` solver steps with these weights' embeddings of their timesteps: compute it once, not once a frame.

  Raises ValueError unless 1 <= count <= 999.
  """
  schedule = Schedule.of(count)
  coefficients = {field.name: getattr(schedule, field.name) for field in dataclasses.fields(schedule)}
  timesteps = coefficients.pop('timesteps')
  return Steps(time=head.embed_time(weights, timesteps), **coefficients)


def diffusion_head(
  weights: Params,
  noise: jax.Array,
  condition: jax.Array,
  steps: Steps,
  *,
  guidance: Guidance | None = None,
  eps: float = 1e-5,
) -> jax.Array:
  """Latents [R, C] from noise [R, C] of variance 1, given hidden states [R, D]; int8 and LoRA weights are folded.

  guidance=None skips the negative branch: half the work. Both branches see the same noisy latents.
  """
  return kernels.diffusion_head(fold_for_kernels(weights), noise, condition, steps, guidance=guidance, eps=eps)
