"""InternVL's published files: layouts A and B come back byte for byte, A, B and C mean the same, faults are named."""

import dataclasses
import json
import pathlib
import shutil

import jax
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from core.files.config import CheckpointError
from internvl import model
from internvl.files import checkpoint, hf_config
from tests.parity import layouts

FIXTURES = pathlib.Path(__file__).parents[1] / 'parity' / 'fixtures'
CASES = [f'{tower}-{text}' for tower in ('300m', '6b') for text in ('qwen2', 'qwen3', 'qwen3_moe', 'gpt_oss')]


def same(a, b) -> bool:
  return all(jax.tree.leaves(jax.tree.map(lambda x, y: bool((x == y).all()), a, b)))


@pytest.mark.parametrize('case', CASES)
@pytest.mark.parametrize('layout', ['A', 'B'])
def test_published_files_come_back_byte_for_byte(case, layout, tmp_path):
  folder = FIXTURES / case
  if layout == 'A':
    folder = tmp_path / 'a'
    layouts.write_a(FIXTURES / case, folder)
  config, params = checkpoint.load(folder, dtype=np.float32)
  out = tmp_path / 'out'
  checkpoint.save(out, config, params, layout=layout)
  assert (out / 'model.safetensors').read_bytes() == (folder / 'model.safetensors').read_bytes()
  assert hf_config.config_from(out) == config


@pytest.mark.parametrize('case', ['300m-qwen3_moe', '6b-gpt_oss'])
def test_three_layouts_are_one_model(case, tmp_path):
  layouts.write_a(FIXTURES / case, tmp_path / 'a')
  layouts.write_c(FIXTURES / case, tmp_path / 'c')
  config, params = checkpoint.load(FIXTURES / case, dtype=np.float32)
  for layout in 'ac':
    other, loaded = checkpoint.load(tmp_path / layout, dtype=np.float32)
    assert same(params, loaded)
    assert (other.language, other.image_token, other.shuffle) == (config.language, config.image_token, config.shuffle)


def test_shards_with_an_index(tmp_path):
  source = FIXTURES / '6b-qwen3_moe'
  tensors = load_file(source / 'model.safetensors')
  where = {name: f'model-0000{i % 3 + 1}-of-00003.safetensors' for i, name in enumerate(tensors)}
  for file in set(where.values()):
    save_file({n: w for n, w in tensors.items() if where[n] == file}, tmp_path / file)
  (tmp_path / 'model.safetensors.index.json').write_text(json.dumps({'metadata': {}, 'weight_map': where}))
  shutil.copy(source / 'config.json', tmp_path)
  assert same(checkpoint.load(tmp_path)[1], checkpoint.load(source)[1])


def test_a_stored_head_wins_over_the_tie_flag(tmp_path):
  shutil.copytree(FIXTURES / '300m-qwen3', tmp_path, dirs_exist_ok=True)
  h = json.loads((tmp_path / 'config.json').read_text())
  h['tie_word_embeddings'] = h['text_config']['tie_word_embeddings'] = True
  (tmp_path / 'config.json').write_text(json.dumps(h))
  config, params = checkpoint.load(tmp_path)
  assert not config.language.tied and params.language.head is not None
  tensors = load_file(tmp_path / 'model.safetensors')
  del tensors['language_model.lm_head.weight']
  save_file(tensors, tmp_path / 'model.safetensors')
  config, params = checkpoint.load(tmp_path)
  assert config.language.tied and params.language.head is None


@pytest.mark.slow
@pytest.mark.parametrize('layout', ['A', 'B'])
def test_a_tied_model_round_trips(layout, tmp_path):
  config = checkpoint.load(FIXTURES / '300m-qwen3')[0]
  config = dataclasses.replace(config, language=dataclasses.replace(config.language, tied=True))
  params = model.init(jax.random.key(0), config)
  checkpoint.save(tmp_path, config, params, layout=layout)
  other, loaded = checkpoint.load(tmp_path, dtype=np.float32)
  assert other == config and same(params, loaded)


CONFIG_FAULTS = {
  'model_type': (lambda h: h.update(model_type='llava'), 'llava'),
  'text model_type': (lambda h: h['text_config'].update(model_type='mamba'), 'mamba'),
  'hidden_size': (lambda h: h['text_config'].pop('hidden_size'), 'hidden_size'),
  'vision depth': (lambda h: h['vision_config'].pop('num_hidden_layers'), 'num_hidden_layers'),
  'vision_config': (lambda h: h.pop('vision_config'), 'vision_config'),
  'norm_type': (lambda h: h['vision_config'].update(norm_type='group'), 'group'),
  'select layer': (lambda h: h.update(vision_feature_layer=-4), 'vision_feature_layer'),
  'image_token_id': (lambda h: h.pop('image_token_id'), 'image_token_id'),
  'rope': (lambda h: h['text_config'].update(rope_parameters={'rope_type': 'llama3', 'rope_theta': 1.0}), 'llama3'),
  'depth too small': (lambda h: h['text_config'].update(num_hidden_layers=2, layer_types=None), 'layers.2.'),
  'heads do not divide': (lambda h: h['text_config'].update(num_attention_heads=5), 'heads=5'),
  'image size': (lambda h: h['vision_config'].update(image_size=[12, 10]), '12, 10'),
  'half a token': (lambda h: h.update(downsample_ratio=0), 'downsample_ratio'),
}


@pytest.mark.parametrize('fault', CONFIG_FAULTS)
def test_a_faulty_config_is_named(fault, tmp_path):
  shutil.copytree(FIXTURES / '300m-qwen3', tmp_path, dirs_exist_ok=True)
  h = json.loads((tmp_path / 'config.json').read_text())
  break_it, word = CONFIG_FAULTS[fault]
  break_it(h)
  (tmp_path / 'config.json').write_text(json.dumps(h))
  with pytest.raises(CheckpointError) as e:
    checkpoint.load(tmp_path)
  assert word in str(e.value)


def test_saved_metadata_is_what_published_loaders_expect(tmp_path):
  config, params = checkpoint.load(FIXTURES / '300m-qwen3')
  checkpoint.save(tmp_path, config, params)
  with safe_open(tmp_path / 'model.safetensors', framework='numpy') as f:
    assert f.metadata() == {'format': 'pt'}
  with pytest.raises(ValueError, match="'C'"):
    checkpoint.save(tmp_path, config, params, layout='C')
