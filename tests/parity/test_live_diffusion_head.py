"""The diffusion head against the one of `transformers`, with re-drawn weights: its own start at 0 and hide faults."""

import importlib.util
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from vibevoice import diffusion
from vibevoice.config import HeadConfig
from vibevoice.diffusion.schedule import Schedule

pytestmark = pytest.mark.parity
HEAD = HeadConfig(width=48, latent=8, depth=3, frequency_width=32)


def theirs():
  from transformers.models.vibevoice.modeling_vibevoice import VibeVoiceDiffusionHead

  config = types.SimpleNamespace(
    hidden_size=HEAD.width,
    latent_size=HEAD.latent,
    intermediate_size=HEAD.mlp_width,
    num_hidden_layers=HEAD.depth,
    rms_norm_eps=HEAD.eps,
    frequency_embedding_size=HEAD.frequency_width,
    diffusion_max_period=10_000,
    hidden_act='silu',
    mlp_bias=False,
  )
  torch.manual_seed(0)
  net = VibeVoiceDiffusionHead(config)
  for weight in net.parameters():
    torch.nn.init.normal_(weight, std=weight.shape[-1] ** -0.5)
  return net.eval()


def ours(net) -> diffusion.Params:
  def read(module):
    return module.weight.detach().numpy().T

  def parts(module, count):
    return read(module).reshape(HEAD.width, count, HEAD.width)

  blocks = [
    diffusion.Block(
      norm=layer.norm.weight.detach().numpy(),
      modulation=parts(layer.linear, 3),
      gate=read(layer.ffn.gate_proj),
      up=read(layer.ffn.up_proj),
      down=read(layer.ffn.down_proj),
    )
    for layer in net.layers
  ]
  params = diffusion.Params(
    noise=read(net.noisy_images_proj),
    condition=read(net.cond_proj),
    time_in=read(net.timestep_proj.fc1),
    time_out=read(net.timestep_proj.fc2),
    blocks=jax.tree.map(lambda *leaves: np.stack(leaves), *blocks),
    modulation=parts(net.final_layer.linear_1, 2),
    out=read(net.final_layer.linear_2),
  )
  return jax.tree.map(jnp.asarray, params)


def test_head_equals_transformers():
  net = theirs()
  rng = np.random.default_rng(1)
  noisy = rng.standard_normal((6, HEAD.latent)).astype(np.float32)
  condition = rng.standard_normal((6, HEAD.width)).astype(np.float32)
  times = np.array([0, 1, 100, 500, 899, 999], np.float32)
  with torch.no_grad():
    want = net(torch.tensor(noisy), torch.tensor(times), torch.tensor(condition)).numpy()
  assert np.abs(want).max() > 0.5
  got = diffusion.velocity(ours(net), HEAD, noisy, times, condition)
  np.testing.assert_allclose(got, want, atol=1e-5 * np.abs(want).max())


@pytest.mark.skipif(importlib.util.find_spec('diffusers') is None, reason='diffusers is not installed')
@pytest.mark.parametrize('steps', [1, 2, 5, 10, 14, 15, 20])
def test_solver_equals_diffusers(steps):
  from diffusers import DPMSolverMultistepScheduler

  scheduler = DPMSolverMultistepScheduler(beta_schedule='squaredcos_cap_v2', prediction_type='v_prediction')
  scheduler.set_timesteps(steps)
  schedule = Schedule.of(steps)
  assert scheduler.timesteps.tolist() == schedule.timesteps.astype(int).tolist()
  rng = np.random.default_rng(steps)
  matrix = (rng.standard_normal((8, 8)) / 3).astype(np.float32)
  noise = rng.standard_normal((4, 8)).astype(np.float32)
  x = torch.tensor(noise)
  for t in scheduler.timesteps:
    x = scheduler.step(x @ torch.tensor(matrix), t, x).prev_sample
  got = diffusion.solve(lambda x, t: x @ matrix, jnp.asarray(noise), schedule, schedule.timesteps)
  np.testing.assert_allclose(got, x.numpy(), rtol=1e-5, atol=1e-5 * np.abs(x.numpy()).max())
