"""Flow models against diffusers and transformers through their own files, with re-drawn weights.

Published initial values (zeros in every modulation and output) would hide most faults.
"""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from rl.flow import mmdit, vae
from rl.flow.files import text as text_files
from rl.flow.files import transformer
from rl.flow.files import vae as vae_files
from rl.flow.text import clip, t5

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


@pytest.fixture(scope='module')
def autoencoder(tmp_path_factory):
  """(their model, our config, our params, the folder that they wrote)."""
  from diffusers import AutoencoderKL

  net = AutoencoderKL(
    down_block_types=('DownEncoderBlock2D',) * 3,
    up_block_types=('UpDecoderBlock2D',) * 3,
    block_out_channels=(8, 12, 16),
    layers_per_block=2,
    latent_channels=4,
    norm_num_groups=4,
    scaling_factor=0.3611,
    shift_factor=0.1159,
    use_quant_conv=False,
    use_post_quant_conv=False,
  )
  redraw(net)
  folder = tmp_path_factory.mktemp('vae')
  net.save_pretrained(folder)
  return net, *vae_files.load(folder), folder


def test_vae(autoencoder):
  net, config, params, _ = autoencoder
  rng = np.random.default_rng(0)
  images = np.tanh(rng.standard_normal((2, 16, 24, 3))).astype(np.float32)
  with torch.no_grad():
    theirs = net.encode(torch.tensor(images).permute(0, 3, 1, 2)).latent_dist
  mean, logvar = jax.jit(lambda p, x: vae.moments(p, config, x))(params, images)
  near(mean, theirs.mean.permute(0, 2, 3, 1))
  near(logvar, theirs.logvar.permute(0, 2, 3, 1))
  latents = vae.encode(params, config, images)
  np.testing.assert_allclose(latents, (mean - 0.1159) * 0.3611, atol=1e-5)
  encoded = latents / 0.3611 + 0.1159
  with torch.no_grad():
    decoded = net.decode(torch.tensor(np.asarray(encoded)).permute(0, 3, 1, 2)).sample.permute(0, 2, 3, 1)
  near(jax.jit(lambda p, x: vae.decode(p, config, x))(params, latents), decoded)


def test_vae_files_out_are_theirs_byte_by_byte(autoencoder, tmp_path):
  _, config, params, folder = autoencoder
  vae_files.save(tmp_path, config, params)
  name = 'diffusion_pytorch_model.safetensors'
  assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()
  assert vae_files.load(tmp_path)[0] == config


def clip_net(eos, *, projection=None, activation='quick_gelu'):
  from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

  config = CLIPTextConfig(
    vocab_size=99,
    hidden_size=16,
    intermediate_size=40,
    projection_dim=projection or 16,
    num_hidden_layers=3,
    num_attention_heads=2,
    max_position_embeddings=12,
    hidden_act=activation,
    bos_token_id=96,
    eos_token_id=eos,
    pad_token_id=0,
    attn_implementation='eager',
  )
  kind = CLIPTextModel if projection is None else CLIPTextModelWithProjection
  return redraw(kind(config))


# The end is at 5 and 9; of the second row by the first occurrence of 97, after which it is padded with the same.
CLIP_TOKENS = np.array([[96, 3, 50, 4, 5, 98, 0, 0, 0, 0, 0, 0], [96, 30, 20, 31, 1, 2, 3, 8, 9, 98, 98, 98]], np.int32)


@pytest.mark.parametrize(
  ('eos', 'projection', 'activation'), [(2, None, 'quick_gelu'), (98, 24, 'gelu'), (98, None, 'quick_gelu')]
)
def test_clip(tmp_path, eos, projection, activation):
  net = clip_net(eos, projection=projection, activation=activation)
  net.save_pretrained(tmp_path / 'theirs')
  config, params = text_files.load_clip(tmp_path / 'theirs')
  assert (config.eos, config.projection) == (eos, projection)
  with torch.no_grad():
    theirs = net(torch.tensor(CLIP_TOKENS, dtype=torch.long), output_hidden_states=True)
  out = jax.jit(lambda p, t: clip.apply(p, config, t))(params, CLIP_TOKENS)
  near(out.penultimate, theirs.hidden_states[-2])
  pooled = theirs.pooler_output if projection is None else theirs.text_embeds
  near(out.pooled, pooled)
  if projection == 24:
    unprojected = clip.apply(params.replace(projection=None), config, CLIP_TOKENS).pooled
    far(unprojected, pooled[:, :16])
  prefix = text_files.PREFIX if projection else ''
  text_files.save_clip(tmp_path / 'ours', config, params, prefix=prefix)
  written = [(tmp_path / who / 'model.safetensors').read_bytes() for who in ('ours', 'theirs')]
  assert written[0] == written[1]
  assert text_files.load_clip(tmp_path / 'ours')[0] == config


@pytest.fixture(scope='module')
def t5_pair(tmp_path_factory):
  """(their model, our config, our params, the folder that they wrote)."""
  from transformers import T5Config, T5EncoderModel

  config = T5Config(
    vocab_size=99,
    d_model=16,
    d_kv=6,
    d_ff=40,
    num_layers=3,
    num_heads=2,
    feed_forward_proj='gated-gelu',
    tie_word_embeddings=False,
  )
  net = redraw(T5EncoderModel(config))
  folder = tmp_path_factory.mktemp('t5')
  net.save_pretrained(folder)
  return net, *text_files.load_t5(folder), folder


def test_t5(t5_pair):
  net, config, params, _ = t5_pair
  tokens = np.random.default_rng(0).integers(3, 99, (2, 300)).astype(np.int32)
  tokens[0, 7:] = 0
  with torch.no_grad():
    theirs = net(torch.tensor(tokens, dtype=torch.long)).last_hidden_state
    masked = net(torch.tensor(tokens, dtype=torch.long), attention_mask=torch.tensor(tokens != 0)).last_hidden_state
  run = jax.jit(lambda p, t: t5.apply(p, config, t))
  near(run(params, tokens), theirs)
  far(run(params, tokens)[0, :7], masked[0, :7])


def test_t5_files_out_are_theirs_byte_by_byte(t5_pair, tmp_path):
  _, config, params, folder = t5_pair
  text_files.save_t5(tmp_path, config, params)
  assert (tmp_path / 'model.safetensors').read_bytes() == (folder / 'model.safetensors').read_bytes()
  assert text_files.load_t5(tmp_path)[0] == config
