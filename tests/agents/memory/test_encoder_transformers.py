"""The sentence encoder against transformers' BERT and RoBERTa, tiny and re-drawn."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from agents.memory import bert
from agents.memory.encoders import HashEncoder, SentenceEncoder
from core.files.config import CheckpointError
from core.files.tokenizers import byte_tokenizer

SIZES = {
  'vocab_size': 300,
  'hidden_size': 24,
  'num_hidden_layers': 3,
  'num_attention_heads': 4,
  'intermediate_size': 52,
  'max_position_embeddings': 40,
  'type_vocab_size': 2,
  'layer_norm_eps': 1e-7,
}


def reference(kind, folder=None, **changes):
  """A transformers encoder whose every weight, norms included, is drawn anew."""
  import torch
  import transformers

  config, model = {
    'bert': (transformers.BertConfig, transformers.BertModel),
    'roberta': (transformers.RobertaConfig, transformers.RobertaModel),
  }[kind]
  pad = {'pad_token_id': 1} if kind == 'roberta' else {}
  net = model(config(**SIZES, **pad, **changes)).eval()
  generator = torch.Generator().manual_seed(0)
  with torch.no_grad():
    for name, weight in net.named_parameters():
      shift = 1.0 if 'LayerNorm.weight' in name else 0.0
      weight.copy_(shift + 0.3 * torch.randn(weight.shape, generator=generator))
  if folder is not None:
    net.save_pretrained(folder, safe_serialization=True)
  return net


def batch(kind):
  tokens = np.random.default_rng(0).integers(4, 300, (3, 11)).astype(np.int32)
  mask = np.arange(11)[None] < np.array([11, 7, 1])[:, None]
  return np.where(mask, tokens, 1 if kind == 'roberta' else 0).astype(np.int32), mask


@pytest.mark.parity
@pytest.mark.parametrize('kind', ['bert', 'roberta'])
def test_equals_transformers(kind, tmp_path):
  import torch

  net = reference(kind, tmp_path)
  tokens, mask = batch(kind)
  with torch.no_grad():
    want = net(torch.tensor(tokens), torch.tensor(mask).long())
  config, params = bert.load(tmp_path)
  got = np.asarray(bert.apply(params, config, tokens, mask))
  np.testing.assert_allclose(got[mask], want.last_hidden_state.numpy()[mask], atol=2e-5)
  pooled = np.asarray(bert.embed(params, config, tokens, mask, 'pooler'))
  np.testing.assert_allclose(pooled, want.pooler_output.numpy(), atol=2e-5)
  state, weight = want.last_hidden_state.numpy(), mask[..., None]
  np.testing.assert_allclose(
    bert.embed(params, config, tokens, mask, 'mean'), (state * weight).sum(1) / weight.sum(1), atol=2e-5
  )
  np.testing.assert_allclose(bert.embed(params, config, tokens, mask, 'cls'), state[:, 0], atol=2e-5)


@pytest.mark.parity
@pytest.mark.parametrize('kind', ['bert', 'roberta'])
def test_a_pre_training_checkpoint_loads_without_its_heads_and_saves_back(kind, tmp_path):
  import transformers
  from safetensors.numpy import load_file

  model = {'bert': transformers.BertForMaskedLM, 'roberta': transformers.RobertaForMaskedLM}[kind]
  net = model(reference(kind).config).eval()
  net.save_pretrained(tmp_path / 'a', safe_serialization=True)
  config, params = bert.load(tmp_path / 'a')
  assert not config.pooler
  bert.save(tmp_path / 'b', config, params)
  stored, again = (load_file(tmp_path / f / 'model.safetensors') for f in 'ab')
  assert set(again) == {n.removeprefix(f'{kind}.') for n in stored if n.startswith(f'{kind}.')}
  for name, value in again.items():
    np.testing.assert_array_equal(value, stored[f'{kind}.{name}'])
  assert bert.load(tmp_path / 'b')[0] == config


def tiny_folder(folder, **pooling):
  import jax

  from core import params as params_lib

  config = bert.Config(
    vocab=260,
    width=16,
    depth=2,
    heads=2,
    mlp_width=24,
    positions=32,
    types=1,
    norm_eps=1e-5,
    first_position=0,
    pooler=True,
  )
  bert.save(folder, config, params_lib.init(jax.random.key(0), bert.spec(config)))
  byte_tokenizer(['<pad>', '<eos>'], pad='<pad>', eos='<eos>').save_pretrained(folder)
  if pooling:
    (folder / '1_Pooling').mkdir()
    (folder / '1_Pooling' / 'config.json').write_text(json.dumps(pooling))
  return folder


def test_padding_and_company_do_not_change_a_vector(tmp_path):
  encoder = SentenceEncoder.load(tiny_folder(tmp_path, pooling_mode_mean_tokens=True, pooling_mode_cls_token=False))
  assert '/mean/' in encoder.id
  texts = ['a', 'a longer text by far', 'ü' * 200, 'b' * 31]
  alone = np.concatenate([encoder([t]) for t in texts])
  np.testing.assert_allclose(encoder(texts), alone, atol=1e-5)
  assert encoder([]).shape == (0, 16)


def test_what_does_not_fit_is_refused_by_name(tmp_path):
  folder = tiny_folder(tmp_path)
  with pytest.raises(ValueError, match="pooling='max'"):
    SentenceEncoder.load(folder, pooling='max')
  config = json.loads((folder / 'config.json').read_text())
  (folder / 'config.json').write_text(json.dumps(config | {'hidden_act': 'relu'}))
  with pytest.raises(CheckpointError, match="hidden_act='relu'"):
    bert.load(folder)
  (folder / 'config.json').write_text(json.dumps(config | {'model_type': 'qwen3'}))
  with pytest.raises(CheckpointError, match='qwen3'):
    bert.load(folder)
  (folder / 'modules.json').write_text('[{"type": "sentence_transformers.models.Dense"}]')
  with pytest.raises(CheckpointError, match='Dense'):
    SentenceEncoder.load(folder)


def test_a_hash_vector_depends_on_words_alone():
  encoder = HashEncoder(64)
  one, two, other = encoder(['Red fox, red!', 'red fox red', 'blue whale'])
  np.testing.assert_array_equal(one, two)
  assert abs(one @ other) < 0.5
  assert jnp.isclose(np.linalg.norm(one), 1)
