"""The peer's side of `bench.perf.flow`: diffusers' FLUX.1 transformer on torch, sampled and trained by the least code.

R images   K trained steps   T text tokens   S patches   Y, X, C rows, columns and channels of latents
"""

import dataclasses
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Shape:
  """Sizes of a FLUX.1-shaped transformer. text, pooled: widths of what it reads."""

  heads: int
  head_dim: int
  joint: int
  single: int
  text: int
  pooled: int
  channels: int = 4

  @property
  def axes(self) -> tuple[int, int, int]:
    """Sizes of the rotary axes (text, row, column)."""
    of_text = self.head_dim // 4
    of_place = (self.head_dim - of_text) // 2
    return of_text, of_place, of_place


def transformer(shape: Shape) -> Any:
  """A random diffusers model in which every part moves the output."""
  import torch
  from diffusers import FluxTransformer2DModel

  torch.manual_seed(0)
  net = FluxTransformer2DModel(
    in_channels=4 * shape.channels,
    num_layers=shape.joint,
    num_single_layers=shape.single,
    attention_head_dim=shape.head_dim,
    num_attention_heads=shape.heads,
    joint_attention_dim=shape.text,
    pooled_projection_dim=shape.pooled,
    guidance_embeds=True,
    axes_dims_rope=shape.axes,
  )
  with torch.no_grad():
    for weight in net.parameters():
      if weight.ndim > 1:
        weight.normal_(std=0.5 * weight[0].numel() ** -0.5)
  return net


def pack(latents: np.ndarray) -> np.ndarray:
  """[R, Y, X, C] as the tokens [R, S, 4 C] that the model takes, channels first."""
  rows, height, width, channels = latents.shape
  blocks = latents.reshape(rows, height // 2, 2, width // 2, 2, channels)
  return blocks.transpose(0, 1, 3, 5, 2, 4).reshape(rows, -1, 4 * channels)


def unpack(tokens: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
  """The inverse of `pack`, for latents of `shape`."""
  rows, height, width, channels = shape
  blocks = tokens.reshape(rows, height // 2, width // 2, channels, 2, 2)
  return blocks.transpose(0, 1, 4, 2, 5, 3).reshape(shape)


def _places(shape: tuple[int, ...], text: int) -> dict[str, Any]:
  """The positions of text tokens and patches."""
  import torch

  grid = np.meshgrid([0], np.arange(shape[1] // 2), np.arange(shape[2] // 2), indexing='ij')
  places = np.stack(grid, -1).reshape(-1, 3)
  return {'img_ids': torch.tensor(places, dtype=torch.float32), 'txt_ids': torch.zeros(text, 3)}


def sampler(net: Any, x: np.ndarray, context: np.ndarray, pooled: np.ndarray, schedule: Any, guidance: float):
  """A function that follows noise x [R, Y, X, C] along the schedule, deterministically."""
  import torch

  rows = x.shape[0]
  start = torch.tensor(pack(x))
  given = {'encoder_hidden_states': torch.tensor(context), 'pooled_projections': torch.tensor(pooled)}
  given |= _places(x.shape, context.shape[1]) | {'guidance': torch.full((rows,), guidance)}
  lengths = np.diff(schedule.levels).tolist()

  def run() -> np.ndarray:
    tokens = start
    with torch.inference_mode():
      for time, length in zip(schedule.times.tolist(), lengths):
        v = net(hidden_states=tokens, timestep=torch.full((rows,), time), **given, return_dict=False)[0]
        tokens = tokens + length * v
    return unpack(tokens.numpy(), x.shape)

  return run


@dataclasses.dataclass(frozen=True)
class Steps:
  """Denoising steps to train on.

  states, following: float32 [K, Y, X, C]. context: [K, T, D]. pooled: [K, P]. Others: float32 [K], as the stochastic
  step of `rl.flow.sampling.steps` names them; length is negative.
  """

  states: np.ndarray
  following: np.ndarray
  time: np.ndarray
  sigma: np.ndarray
  length: np.ndarray
  rate: np.ndarray
  deviation: np.ndarray
  advantage: np.ndarray
  context: np.ndarray
  pooled: np.ndarray


def trainer(net: Any, steps: Steps, *, guidance: float, lr: float, clip: float):
  """A function that makes one clipped update from the weights that sampled, and returns the gradient's norm."""
  import torch

  optimizer = torch.optim.AdamW(net.parameters(), lr=lr, weight_decay=0.0)
  column = lambda values: torch.tensor(values)[:, None, None]
  states = torch.tensor(pack(steps.states))
  following = torch.tensor(pack(steps.following))
  sigma, length, rate, deviation = map(column, (steps.sigma, steps.length, steps.rate, steps.deviation))
  advantage = torch.tensor(steps.advantage)
  given = {'encoder_hidden_states': torch.tensor(steps.context), 'pooled_projections': torch.tensor(steps.pooled)}
  given |= _places(steps.states.shape, steps.context.shape[1])
  given |= {'timestep': torch.tensor(steps.time), 'guidance': torch.full(steps.time.shape, guidance)}

  def run() -> float:
    v = net(hidden_states=states, **given, return_dict=False)[0]
    mean = states + (v + rate / (2 * sigma) * (states + (1 - sigma) * v)) * length
    logp = -0.5 * (((following - mean) / deviation) ** 2).mean((1, 2))
    ratio = torch.exp(logp - logp.detach())
    bounded = ratio.clamp(1 - clip, 1 + clip)
    loss = -torch.minimum(ratio * advantage, bounded * advantage).mean()
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
    optimizer.step()
    return float(norm)

  return run
