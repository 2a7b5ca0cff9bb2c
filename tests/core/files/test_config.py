"""config.json: what it says is understood or refused by name, and never skipped in silence."""

import dataclasses
import pathlib

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from core import decoder
from core.decoder import hf_config
from core.files.config import GENERIC, CheckpointError, read_json
from core.layers import Yarn, rope_frequencies

TINY = decoder.CONFIGS['tiny']
QWEN3 = hf_config.config_to(TINY)
QWEN2 = hf_config.config_to(dataclasses.replace(TINY, qk_norm=False, qkv_bias=True))
QWEN3_MOE = hf_config.config_to(decoder.CONFIGS['qwen3-30b-a3b'])
GPT_OSS = hf_config.config_to(decoder.CONFIGS['gpt-oss-20b'])
LLAMA = hf_config.config_to(decoder.CONFIGS['llama3.2-1b'])
YARN = {'rope_type': 'yarn', 'rope_theta': 1e4, 'factor': 4.0, 'original_max_position_embeddings': 256}


def rope(**keys) -> dict:
  return {'rope_parameters': YARN | keys}


REFUSED = {
  'unknown key': (QWEN3, {'logit_softcap': 30.0}, 'logit_softcap=30.0'),
  'activation': (QWEN3, {'hidden_act': 'gelu'}, "hidden_act='gelu' is not supported; expected 'silu'"),
  'biases': (QWEN3, {'attention_bias': True}, 'attention_bias=True is not supported; expected False'),
  'dense layers': (QWEN3_MOE, {'mlp_only_layers': [0]}, 'mlp_only_layers=[0] is not supported; expected []'),
  'sparse step': (QWEN3_MOE, {'decoder_sparse_step': 2}, 'decoder_sparse_step=2'),
  'routing': (QWEN3_MOE, {'norm_topk_prob': False}, 'norm_topk_prob'),
  'clamp': (GPT_OSS, {'swiglu_limit': 5.0}, 'swiglu_limit=5.0 is not supported; expected 7.0'),
  'quantised': (GPT_OSS, {'quantization_config': {'quant_method': 'mxfp4'}}, 'mxfp4'),
  'layer kind': (GPT_OSS, {'layer_types': ['full_attention', 'linear_attention'] * 12}, 'linear_attention'),
  'layer count': (GPT_OSS, {'layer_types': ['full_attention'] * 3}, 'layer_types has 3 layers'),
  'rope kind': (QWEN3, rope(rope_type='dynamic'), "rope_type 'dynamic'; expected default or yarn or llama3"),
  'rope key': (QWEN3, rope(long_factor=[1.0]), 'long_factor'),
  'rope part': (QWEN3, rope(partial_rotary_factor=0.5), 'partial_rotary_factor=0.5'),
  'rope factor': (QWEN3, {'rope_parameters': {'rope_type': 'yarn', 'rope_theta': 1e4}}, "'factor' is missing"),
  'MLP biases': (LLAMA, {'mlp_bias': True}, 'mlp_bias=True is not supported; expected False'),
  'llama3 factors': (
    LLAMA,
    {'rope_parameters': LLAMA['rope_parameters'] | {'low_freq_factor': 4.0}},
    'llama3 rope parameters: low_freq_factor=4.0, high_freq_factor=4.0',
  ),
  'llama3 length': (
    LLAMA,
    {'rope_parameters': LLAMA['rope_parameters'] | {'original_max_position_embeddings': None}},
    "'original_max_position_embeddings' is missing",
  ),
  'a size in quotes': (QWEN3, {'hidden_size': '64'}, "hidden_size='64'; expected a value of type int"),
  'a size of the wrong kind': (QWEN3, {'num_hidden_layers': True}, 'num_hidden_layers=True'),
  'a rope that is a list': (QWEN3, {'rope_parameters': [1]}, 'config'),
}


@pytest.mark.parametrize('fault', REFUSED)
def test_a_key_that_changes_the_function_is_refused_by_name(fault):
  base, change, message = REFUSED[fault]
  with pytest.raises(CheckpointError) as error:
    hf_config.config_from(base | change)
  assert message in str(error.value)


@pytest.mark.parametrize('base', [QWEN2, QWEN3, QWEN3_MOE, GPT_OSS, LLAMA], ids=lambda h: h['model_type'])
def test_keys_without_effect_are_skipped(base):
  noise = dict.fromkeys(GENERIC - {'model_type'}, 7) | {'anything': None}
  assert hf_config.config_from(base | noise) == hf_config.config_from(base)


@pytest.mark.parametrize('value', [[], 'text', 7, None])
def test_a_config_that_is_no_object_is_refused(value):
  with pytest.raises(CheckpointError, match='expected an object'):
    hf_config.config_from(value)


@pytest.mark.parametrize(
  'keys, scale',
  [
    ({}, 0.1 * np.log(4) + 1),
    ({'attention_factor': 1.25}, 1.25),
    ({'mscale': 0.7, 'mscale_all_dim': 0.3}, (0.07 * np.log(4) + 1) / (0.03 * np.log(4) + 1)),
    ({'mscale': 0.7}, 0.1 * np.log(4) + 1),
    ({'mscale': 1.0, 'mscale_all_dim': 0.0}, 0.1 * np.log(4) + 1),
  ],
)
def test_yarn_scales_as_transformers_does(keys, scale):
  config = hf_config.config_from(QWEN3 | rope(**keys))
  np.testing.assert_allclose(config.rope_scaling.attention_factor, scale, rtol=1e-12)
  assert hf_config.config_from(hf_config.config_to(config)) == config


def test_yarn_does_not_scale_what_is_not_extended():
  assert Yarn(factor=1.0, original_length=8).attention_factor == 1.0


def test_llama_3_keeps_fast_pairs_and_interpolates_slow_ones():
  """Turns in 8,192 positions: more than 4, as they were; fewer than 1, a thirty-second; the rest between."""
  config = hf_config.config_from(LLAMA)
  assert config == decoder.CONFIGS['llama3.2-1b']
  plain = rope_frequencies(config.head_dim, config.rope_theta)
  scaled = rope_frequencies(config.head_dim, config.rope_theta, config.rope_scaling)
  turns = 8192 * plain / (2 * np.pi)
  np.testing.assert_array_equal(scaled[turns > 4], plain[turns > 4])
  np.testing.assert_allclose(scaled[turns < 1], plain[turns < 1] / 32, rtol=1e-12)
  between = (turns > 1) & (turns < 4)
  kept = (turns[between] - 1) / 3
  np.testing.assert_allclose(scaled[between] / plain[between], kept + (1 - kept) / 32, rtol=1e-12)
  assert between.any()


def test_sliding_layers_are_read_without_a_list_of_them():
  """Qwen: the last layers slide, where the switch is on. GPT-OSS: every other layer."""
  base = {k: v for k, v in QWEN2.items() if k != 'layer_types'} | {'num_hidden_layers': 4, 'sliding_window': 32}
  on = base | {'use_sliding_window': True, 'max_window_layers': 3}
  assert hf_config.config_from(on).windows == (None, None, None, 32)
  assert hf_config.config_from(base | {'use_sliding_window': False}).windows == (None,)
  assert hf_config.config_from({k: v for k, v in GPT_OSS.items() if k != 'layer_types'}).windows == (128, None)


def test_gpt_oss_without_windows_is_saved_as_transformers_reads_it():
  full = dataclasses.replace(decoder.CONFIGS['gpt-oss-20b'], windows=(None,))
  h = hf_config.config_to(full)
  assert isinstance(h['sliding_window'], int)
  assert hf_config.config_from(h) == full


@pytest.mark.parametrize('content', ['[]', '"a"', '[' * 100_000, '\xff'])
def test_a_file_that_is_no_object_is_named(content, tmp_path):
  file = tmp_path / 'config.json'
  file.write_bytes(content.encode('latin-1'))
  with pytest.raises(CheckpointError, match=r'config\.json'):
    read_json(tmp_path, 'config.json')


def test_a_file_in_place_of_a_folder_is_named(tmp_path):
  (tmp_path / 'model').write_text('')
  with pytest.raises(CheckpointError, match='model'):
    decoder.load(tmp_path / 'model')


@pytest.fixture(scope='module')
def saved(tmp_path_factory) -> pathlib.Path:
  folder = tmp_path_factory.mktemp('tiny')
  decoder.save(folder, TINY, decoder.init(jax.random.key(0), TINY))
  return folder


def copied(saved: pathlib.Path, folder: pathlib.Path) -> dict[str, np.ndarray]:
  (folder / 'config.json').write_bytes((saved / 'config.json').read_bytes())
  return load_file(saved / 'model.safetensors')


@pytest.mark.parametrize('name', ['adapter_model.safetensors', 'consolidated.safetensors'])
def test_stray_files_and_derived_buffers_do_no_harm(name, saved, tmp_path):
  tensors = copied(saved, tmp_path)
  stray = {'base_model.lora_A.weight': np.zeros((2, 2), np.float32)}
  save_file(stray, tmp_path / name)
  buffers = {f'model.layers.{n}.self_attn.rotary_emb.inv_freq': np.ones(12, np.float32) for n in range(2)}
  save_file(tensors | buffers, tmp_path / 'model.safetensors')
  decoder.load(tmp_path)


@pytest.mark.parametrize(
  'name, word',
  [
    ('pytorch_model.bin', 'safe_serialization'),
    ('adapter_model.safetensors', 'PEFT adapter'),
    ('model.Q4_K_M.gguf', 'GGUF'),
    ('model', 'workdir'),
    ('notes.txt', 'notes.txt'),
  ],
)
def test_a_folder_of_something_else_is_told_what_to_do(name, word, saved, tmp_path):
  copied(saved, tmp_path)
  (tmp_path / name).write_bytes(b'')
  with pytest.raises(CheckpointError, match=word):
    decoder.load(tmp_path)


@pytest.mark.parametrize('dtype', [np.float32, np.float16, ml_dtypes.bfloat16])
def test_the_dtype_of_the_files_is_kept_unless_told(dtype, saved, tmp_path):
  tensors = copied(saved, tmp_path)
  save_file({name: w.astype(dtype) for name, w in tensors.items()}, tmp_path / 'model.safetensors')
  assert decoder.load(tmp_path)[1].embed.dtype == dtype
  assert decoder.load(tmp_path, dtype=np.float32)[1].embed.dtype == np.float32
