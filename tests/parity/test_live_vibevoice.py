"""VibeVoice against transformers' port, through its own files, with re-drawn weights: its own initial values (layer
scales of 1e-6, biases of 0, latents unscaled) would hide faults."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch

import vibevoice
from core.files.tensors import Files
from vibevoice import connector, model, scaling, tokenizer
from vibevoice.tokenizer import streaming

pytestmark = pytest.mark.parity
TOLERANCE = 1e-4
TOKENIZER = {
  'num_filters': 4,
  'downsampling_ratios': [2, 4, 5],
  'depths': [2, 1, 1, 3],
  'layer_scale_init_value': 0.4,
}
HOP = 40
LANGUAGE = {
  'model_type': 'qwen2',
  'vocab_size': 300,
  'hidden_size': 64,
  'intermediate_size': 96,
  'num_hidden_layers': 3,
  'num_attention_heads': 4,
  'num_key_value_heads': 2,
  'rope_parameters': {'rope_type': 'default', 'rope_theta': 1e6},
  'rms_norm_eps': 1e-6,
}
IDS = {'audio_bos_token_id': 257, 'audio_eos_token_id': 258, 'audio_token_id': 259, 'eos_token_id': 256}
RNG = np.random.default_rng(0)
WAV = RNG.normal(size=(2, 9 * HOP)).astype(np.float32)


def build(tied):
  from transformers import VibeVoiceConfig, VibeVoiceForConditionalGeneration

  config = VibeVoiceConfig(
    text_config=LANGUAGE | {'tie_word_embeddings': tied},
    audio_config={'model_type': 'vibevoice_acoustic_tokenizer', 'hidden_size': 8, **TOKENIZER},
    semantic_model_config={'model_type': 'vibevoice_acoustic_tokenizer_encoder', 'hidden_size': 12, **TOKENIZER},
    diffusion_head_config={'intermediate_size': 192, 'num_hidden_layers': 2, 'frequency_embedding_size': 32},
    pad_token_id=256,
    **IDS,
  )
  torch.manual_seed(0)
  net = VibeVoiceForConditionalGeneration(config)
  with torch.no_grad():
    for name, weight in net.named_parameters():
      redraw(name, weight)
    net.model.latent_scaling_factor.fill_(0.2)
    net.model.latent_bias_factor.fill_(-0.05)
  return net.eval()


def redraw(name, weight):
  noise = torch.randn_like(weight)
  if name.endswith('gamma'):
    weight.copy_(0.4 + 0.1 * noise)
  elif 'norm' in name or '.act.' in name:
    weight.copy_(1 + 0.2 * noise)
  elif weight.ndim == 1:
    weight.copy_(0.2 * noise)
  elif weight.ndim > 1:
    weight.copy_(noise / np.prod(weight.shape[1:]) ** 0.5)


@pytest.fixture(scope='module', params=[True, False], ids=['tied', 'untied'])
def pair(request, tmp_path_factory):
  """(their model, our config, our params, the folder that they wrote)."""
  net = build(request.param)
  folder = tmp_path_factory.mktemp('port')
  net.save_pretrained(folder)
  return net, *vibevoice.load(folder, dtype=jnp.float32), folder


def close(got, want, tolerance=TOLERANCE):
  np.testing.assert_allclose(got, want.detach().numpy(), atol=tolerance)


def test_tokenizers(pair):
  net, config, params, _ = pair
  with torch.no_grad():
    means = net.model.audio_tower.encode(torch.tensor(WAV)[:, None], sample=False).latents
    semantic = net.model.semantic_tokenizer_encoder(torch.tensor(WAV)[:, None]).latents
    wav = net.model.audio_tower.decode(means).audio
  assert means.std() > 0.1 and wav.std() > 0.05
  close(tokenizer.encode(params.acoustic, config.acoustic, WAV), means)
  close(tokenizer.encode(params.semantic, config.semantic, WAV), semantic)
  close(tokenizer.decode(params.acoustic, config.acoustic, means.numpy()), wav[:, 0])


def test_streams(pair):
  net, config, params, _ = pair
  cache = None
  stream = streaming.start(params.acoustic, config.acoustic, 2)
  for piece in np.split(WAV, [2 * HOP, 3 * HOP], 1):
    with torch.no_grad():
      out = net.model.audio_tower.encode(
        torch.tensor(piece)[:, None], padding_cache=cache, use_cache=True, sample=False
      )
    cache = out.padding_cache
    means, stream = streaming.push(params.acoustic, config.acoustic, stream, piece)
    close(means, out.latents)


def test_connectors(pair):
  net, _, params, _ = pair
  for name, ours, width in (('multi_modal_projector', 'acoustic', 8), ('semantic_connector', 'semantic', 12)):
    x = RNG.normal(size=(2, 5, width)).astype(np.float32)
    want = getattr(net.model, name)(torch.tensor(x))
    close(connector.apply(getattr(params, f'{ours}_connector'), x), want)


def test_hidden_states_and_logits_after_a_voice_prompt(pair):
  net, config, params, _ = pair
  tokens = np.full((2, 16), 7, np.int32)
  tokens[:, 1:5] = RNG.integers(0, 256, (2, 4))
  tokens[:, 5], tokens[:, 6:15], tokens[:, 15] = 257, 259, 258
  with torch.no_grad():
    out = net(
      input_ids=torch.tensor(tokens, dtype=torch.long),
      input_values=torch.tensor(WAV)[:, None],
      padding_mask=torch.ones(2, WAV.shape[1]),
      sample=False,
      output_hidden_states=True,
    )
  means = tokenizer.encode(params.acoustic, config.acoustic, WAV)
  ours = model.apply(params, config, tokens, model.Frames(scaling.to_model(params.scaling, means)))
  close(ours.hidden, out.hidden_states[-1])
  close(ours.logits, out.logits)


def test_their_files_come_back_byte_for_byte(pair, tmp_path):
  _, config, params, folder = pair
  vibevoice.save(tmp_path, config, params, layout='transformers')
  ours, theirs = Files(tmp_path), Files(folder)
  assert sorted(ours.tensors) == sorted(theirs.tensors)
  for name, stored in theirs.tensors.items():
    assert ours.tensors[name].dtype == stored.dtype
    np.testing.assert_array_equal(ours.read(name), theirs.read(name))


def test_they_load_what_we_write(pair, tmp_path):
  from transformers import VibeVoiceForConditionalGeneration

  net, config, params, _ = pair
  vibevoice.save(tmp_path, config, params, layout='transformers')
  again, info = VibeVoiceForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
  assert not info['missing_keys'] and not info['unexpected_keys']
  want = net.state_dict()
  for name, weight in again.state_dict().items():
    assert torch.equal(weight, want[name]), name
  assert again.config.audio_config.vae_std == net.config.audio_config.vae_std
  assert again.config.audio_token_id == 259
