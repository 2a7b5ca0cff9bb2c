"""Qwen2-Audio against transformers through its own files, with re-drawn weights."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from interp import qwen2_audio
from interp.qwen2_audio.generation import expanded

pytestmark = pytest.mark.parity
AUDIO, END = 7, 1
FRAMES = (24, 13)
MEL = np.random.default_rng(0).normal(size=(2, 24, 8)).astype(np.float32)


@pytest.fixture(scope='module')
def pair(tmp_path_factory):
  """(their model, our config, our params)."""
  from transformers import Qwen2AudioConfig, Qwen2AudioForConditionalGeneration

  language = {
    'model_type': 'qwen2',
    'vocab_size': 40,
    'hidden_size': 16,
    'intermediate_size': 24,
    'num_hidden_layers': 2,
    'num_attention_heads': 2,
    'num_key_value_heads': 2,
    'rms_norm_eps': 1e-5,
    'rope_parameters': {'rope_type': 'default', 'rope_theta': 1e4},
    'max_position_embeddings': 128,
    'tie_word_embeddings': False,
  }
  tower = {
    'd_model': 16,
    'encoder_attention_heads': 2,
    'encoder_layers': 2,
    'encoder_ffn_dim': 32,
    'num_mel_bins': 8,
    'max_source_positions': 12,
  }
  config = Qwen2AudioConfig(audio_config=tower, text_config=language, audio_token_index=AUDIO)
  torch.manual_seed(0)
  net = Qwen2AudioForConditionalGeneration(config).eval()
  with torch.no_grad():
    for name, weight in net.named_parameters():
      centre = 1.0 if 'norm' in name and name.endswith('weight') else 0.0
      weight.copy_(centre + 0.3 * torch.randn_like(weight))
  folder = tmp_path_factory.mktemp('qwen2_audio')
  net.save_pretrained(folder)
  return net, *qwen2_audio.load(folder, dtype=jnp.float32)


def test_logits(pair):
  net, config, params = pair
  line = expanded(config, [2, AUDIO, 3, AUDIO, 4, 5], FRAMES)
  mask = np.arange(24) < np.asarray(FRAMES)[:, None]
  with torch.no_grad():
    want = net(
      input_ids=torch.tensor([line]),
      attention_mask=torch.ones(1, len(line), dtype=torch.long),
      input_features=torch.tensor(MEL.swapaxes(1, 2)),
      feature_attention_mask=torch.tensor(mask, dtype=torch.long),
    ).logits.numpy()
  tokens = jnp.asarray([line])
  got = qwen2_audio.apply(params, config, tokens, mel=jnp.asarray(MEL), frames=jnp.asarray(FRAMES)).logits
  np.testing.assert_allclose(got, want, atol=2e-4)


def test_greedy_text(pair):
  net, config, params = pair
  prompt = expanded(config, [2, AUDIO, 3], FRAMES[:1])
  (got,) = qwen2_audio.generate(params, config, [prompt], MEL[:1], FRAMES[:1], max_new=6, stops=(END,))
  with torch.no_grad():
    out = net.generate(
      input_ids=torch.tensor([prompt]),
      attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
      input_features=torch.tensor(MEL[:1].swapaxes(1, 2)),
      feature_attention_mask=torch.ones(1, 24, dtype=torch.long),
      max_new_tokens=6,
      do_sample=False,
      eos_token_id=END,
      pad_token_id=END,
    )
  assert got.tolist() == out[0, len(prompt) :].tolist()
