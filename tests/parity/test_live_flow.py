"""Flow models against diffusers and transformers through their own files, with re-drawn weights.

Published initial values (zeros in every modulation and output) would hide most faults.
"""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from rl.flow import mmdit
from rl.flow.files import transformer

pytestmark = [
  pytest.mark.parity,
  pytest.mark.skipif(importlib.util.find_spec('diffusers') is None, reason='diffusers is not installed'),
]


def redraw(net, seed=0):
  """Weights large enough that every part of the network moves the output."""
  torch.manual_seed(seed)
  with torch.no_grad():
    for name, weight in net.named_parameters():
      noise = torch.randn_like(weight)
      if 'norm' in name and name.endswith('weight') and weight.ndim == 1:
        weight.copy_(1 + 0.2 * noise)
      elif weight.ndim == 1:
        weight.copy_(0.3 * noise)
      else:
        weight.copy_(noise / np.prod(weight.shape[1:]) ** 0.5)
  return net.eval()


def near(ours, theirs, tolerance=1e-5):
  """Within `tolerance` of the deviation of their values, and 1e-4."""
  theirs = theirs.detach().numpy() if torch.is_tensor(theirs) else theirs
  gap = np.abs(np.asarray(ours) - theirs).max()
  assert gap <= min(tolerance * theirs.std(), 1e-4), (gap, theirs.std())


def far(ours, theirs):
  """Unmistakably different: a flip that this file must notice."""
  theirs = theirs.detach().numpy() if torch.is_tensor(theirs) else theirs
  assert np.abs(np.asarray(ours) - theirs).max() > 0.01 * theirs.std()


def inputs(channels, *, rows=8, columns=6, text=24, pooled=20, seed=0):
  rng = np.random.default_rng(seed)
  draw = lambda *shape: rng.standard_normal(shape).astype(np.float32)
  return draw(2, rows, columns, channels), np.array([0.986, 0.3], np.float32), draw(2, 5, text), draw(2, pooled)


def sd3_net(dual=(0, 1), qk_norm='rms_norm'):
  from diffusers import SD3Transformer2DModel

  net = SD3Transformer2DModel(
    sample_size=16,
    patch_size=2,
    in_channels=4,
    out_channels=4,
    num_layers=4,
    attention_head_dim=8,
    num_attention_heads=2,
    joint_attention_dim=24,
    caption_projection_dim=16,
    pooled_projection_dim=20,
    pos_embed_max_size=12,
    dual_attention_layers=dual,
    qk_norm=qk_norm,
  )
  return redraw(net)


@pytest.fixture(scope='module')
def sd3(tmp_path_factory):
  """(their model, our config, our params, the folder that they wrote)."""
  net = sd3_net()
  folder = tmp_path_factory.mktemp('sd3')
  net.save_pretrained(folder)
  return net, *transformer.load(folder), folder


def run_sd3(net, latents, time, context, pooled):
  with torch.no_grad():
    out = net(
      hidden_states=torch.tensor(latents).permute(0, 3, 1, 2),
      timestep=torch.tensor(1000 * time),
      encoder_hidden_states=torch.tensor(context),
      pooled_projections=torch.tensor(pooled),
    ).sample
  return out.permute(0, 2, 3, 1).numpy()


def ours(params, config, *arrays, **options):
  run = jax.jit(lambda p, *a: mmdit.apply(p, config, *a, **options).velocity)
  return run(params, *map(jnp.asarray, arrays))


def test_sd3(sd3):
  net, config, params, _ = sd3
  arrays = inputs(4)
  near(ours(params, config, *arrays), run_sd3(net, *arrays))


def test_sd3_without_norms_and_second_attention(tmp_path):
  net = sd3_net(dual=(), qk_norm=None)
  net.save_pretrained(tmp_path)
  config, params = transformer.load(tmp_path)
  assert (config.dual, config.qk_norm) == (0, False)
  arrays = inputs(4)
  near(ours(params, config, *arrays), run_sd3(net, *arrays))


def test_sd3_table_is_theirs(sd3):
  net, config, _, _ = sd3
  table = mmdit.positions.sinusoid_table(config.table, config.width, config.table_extent)
  np.testing.assert_allclose(table.reshape(1, -1, config.width), net.pos_embed.pos_embed, atol=2e-7)


def test_sd3_flips_are_seen(sd3):
  net, config, params, _ = sd3
  latents, time, context, pooled = inputs(4)
  theirs = run_sd3(net, latents, time, context, pooled)
  swapped = jax.tree.map(lambda w: w[..., ::-1, :], params.modulation)
  far(ours(params.replace(modulation=swapped), config, latents, time, context, pooled), theirs)
  far(ours(params, config, latents, time / 1000, context, pooled), theirs)
  far(ours(params, config, latents, time, context, 0 * pooled), theirs)


def test_sd3_files_out_are_theirs_byte_by_byte(sd3, tmp_path):
  _, config, params, folder = sd3
  transformer.save(tmp_path, config, params)
  name = 'diffusion_pytorch_model.safetensors'
  assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()
  assert transformer.load(tmp_path)[0] == config


def flux_net(guidance=True):
  from diffusers import FluxTransformer2DModel

  net = FluxTransformer2DModel(
    in_channels=16,
    num_layers=2,
    num_single_layers=2,
    attention_head_dim=16,
    num_attention_heads=2,
    joint_attention_dim=24,
    pooled_projection_dim=20,
    guidance_embeds=guidance,
    axes_dims_rope=(4, 6, 6),
  )
  return redraw(net)


@pytest.fixture(scope='module')
def flux(tmp_path_factory):
  """(their model, our config, our params, the folder that they wrote)."""
  net = flux_net()
  folder = tmp_path_factory.mktemp('flux')
  net.save_pretrained(folder)
  return net, *transformer.load(folder), folder


def pack(latents):
  """[B, Y, X, C] to the tokens [B, Y/2 · X/2, 4 C] that their transformer takes, channels first."""
  batch, rows, columns, channels = latents.shape
  blocks = latents.reshape(batch, rows // 2, 2, columns // 2, 2, channels)
  return blocks.transpose(0, 1, 3, 5, 2, 4).reshape(batch, -1, 4 * channels)


def run_flux(net, latents, time, context, pooled, guidance=None):
  rows, columns = latents.shape[1] // 2, latents.shape[2] // 2
  grid = np.stack(np.meshgrid([0], np.arange(rows), np.arange(columns), indexing='ij'), -1).reshape(-1, 3)
  with torch.no_grad():
    out = net(
      hidden_states=torch.tensor(pack(latents)),
      timestep=torch.tensor(time),
      encoder_hidden_states=torch.tensor(context),
      pooled_projections=torch.tensor(pooled),
      img_ids=torch.tensor(grid, dtype=torch.float32),
      txt_ids=torch.zeros(context.shape[1], 3),
      guidance=None if guidance is None else torch.tensor(guidance),
    ).sample.numpy()
  batch, _, _, channels = latents.shape
  blocks = out.reshape(batch, rows, columns, channels, 2, 2).transpose(0, 1, 4, 2, 5, 3)
  return blocks.reshape(latents.shape)


GUIDANCE = np.array([3.5, 1.25], np.float32)


def run_ours_flux(params, config, *arrays):
  *arrays, guidance = arrays
  run = jax.jit(lambda p, g, *a: mmdit.apply(p, config, *a, guidance=g).velocity)
  return run(params, jnp.asarray(guidance), *map(jnp.asarray, arrays))


def test_flux(flux):
  net, config, params, _ = flux
  arrays = inputs(4)
  near(run_ours_flux(params, config, *arrays, GUIDANCE), run_flux(net, *arrays, GUIDANCE))


def test_schnell(tmp_path):
  net = flux_net(guidance=False)
  net.save_pretrained(tmp_path)
  config, params = transformer.load(tmp_path)
  arrays = inputs(4)
  near(ours(params, config, *arrays), run_flux(net, *arrays))


def test_flux_flips_are_seen(flux, monkeypatch):
  net, config, params, _ = flux
  arrays = inputs(4)
  theirs = run_flux(net, *arrays, GUIDANCE)
  latents, time, context, pooled = arrays
  swapped = jax.tree.map(lambda w: w[..., ::-1, :], params.modulation)
  far(run_ours_flux(params.replace(modulation=swapped), config, *arrays, GUIDANCE), theirs)
  far(run_ours_flux(params, config, latents, time / 1000, context, pooled, GUIDANCE), theirs)
  far(run_ours_flux(params, config, *arrays, GUIDANCE / 1000), theirs)
  rope = mmdit.positions.rope
  # Image before text: each token would turn by another one's angle.
  monkeypatch.setattr(mmdit.positions, 'rope', lambda *a: tuple(jnp.roll(x, -a[0], 0) for x in rope(*a)))
  far(run_ours_flux(params, config, *arrays, GUIDANCE), theirs)
  monkeypatch.setattr(mmdit.positions, 'rope', rope)
  sinusoids = mmdit.model.sinusoids
  monkeypatch.setattr(mmdit.model, 'sinusoids', lambda x, width: jnp.roll(sinusoids(x, width), width // 2, -1))
  far(run_ours_flux(params, config, *arrays, GUIDANCE), theirs)


def test_flux_files_out_are_theirs_byte_by_byte(flux, tmp_path):
  _, config, params, folder = flux
  transformer.save(tmp_path, config, params)
  name = 'diffusion_pytorch_model.safetensors'
  assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()
  assert transformer.load(tmp_path)[0] == config
