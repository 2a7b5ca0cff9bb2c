"""Published folders in and out, and folders that are not what they should be."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

import vibevoice
from core import params as params_lib
from core.files.store import CheckpointError
from core.files.tensors import Files
from core.files.weights import leaves
from core.training import lora
from vibevoice import model, realtime
from vibevoice.config import Config
from vibevoice.files.names import LAYOUTS, UNUSED, names, realtime_names

TTS, REALTIME = vibevoice.CONFIGS['tiny'], vibevoice.CONFIGS['tiny-realtime']
UNTIED = dataclasses.replace(TTS, language=dataclasses.replace(TTS.language, tied=False))


def tensors(folder):
  """Name → array of a folder, in the dtype of the file."""
  files = Files(folder)
  return {name: files.read(name) for name in files.tensors}


def halved(params):
  return jax.tree.map(lambda w: w.astype(ml_dtypes.bfloat16), params)


@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize('config', [TTS, UNTIED], ids=['tied', 'untied'])
def test_a_tts_folder_comes_back_as_it_was(tmp_path, drawn, config, layout):
  params = halved(drawn(model.spec(config)))
  vibevoice.save(tmp_path / 'a', config, params, layout=layout)
  loaded, again = vibevoice.load(tmp_path / 'a')
  assert loaded == _as_written(config)
  for got, want in zip(jax.tree.leaves(again), jax.tree.leaves(params), strict=True):
    np.testing.assert_array_equal(got, want)
  vibevoice.save(tmp_path / 'b', loaded, again, layout=layout)
  for name in ('model.safetensors', 'config.json'):
    assert (tmp_path / 'a' / name).read_bytes() == (tmp_path / 'b' / name).read_bytes()


def _as_written(config):
  """`init_std` None, by fan-in, has no published key: it is read as the published 0.01."""
  parts = {'acoustic': config.acoustic}
  if isinstance(config, Config):
    parts['semantic'] = config.semantic
  return dataclasses.replace(config, **{k: dataclasses.replace(c, init_std=0.01) for k, c in parts.items()})


def test_layouts_hold_the_same_values_under_other_names(tmp_path, drawn):
  params = drawn(model.spec(TTS))
  for layout in LAYOUTS:
    vibevoice.save(tmp_path / layout, TTS, params, layout=layout)
  original, port = (tensors(tmp_path / layout) for layout in LAYOUTS)
  pairs = {
    'model.acoustic_tokenizer.encoder.downsample_layers.0.0.conv.conv.weight': (
      'model.audio_tower.encoder.stem.conv.conv.weight'
    ),
    'model.acoustic_tokenizer.encoder.stages.3.1.mixer.conv.conv.conv.weight': (
      'model.audio_tower.encoder.conv_layers.2.stage.1.mixer.conv.weight'
    ),
    'model.acoustic_tokenizer.decoder.upsample_layers.2.0.convtr.convtr.weight': (
      'model.audio_tower.decoder.conv_layers.1.convtr.convtr.weight'
    ),
    'model.semantic_tokenizer.encoder.head.conv.conv.bias': 'model.semantic_tokenizer_encoder.head.conv.bias',
    'model.acoustic_connector.norm.weight': 'model.multi_modal_projector.act.weight',
    'model.prediction_head.layers.1.adaLN_modulation.1.weight': 'model.diffusion_head.layers.1.linear.weight',
    'model.prediction_head.final_layer.linear.weight': 'model.diffusion_head.final_layer.linear_2.weight',
    'model.speech_bias_factor': 'model.latent_bias_factor',
  }
  for ours, theirs in pairs.items():
    np.testing.assert_array_equal(original[ours], port[theirs])
  assert len(original) == len(port)


def test_realtime_drops_the_embedding_it_never_reads(tmp_path, drawn):
  params = drawn(realtime.spec(REALTIME))
  vibevoice.save(tmp_path, REALTIME, params)
  stored = tensors(tmp_path)
  config, again = vibevoice.load(tmp_path, dtype=None)
  assert config == _as_written(REALTIME)
  vibevoice.save(tmp_path / 'again', config, again)
  assert (tmp_path / 'again' / 'model.safetensors').read_bytes() == (tmp_path / 'model.safetensors').read_bytes()

  write(tmp_path, stored | {UNUSED[0]: stored['model.language_model.embed_tokens.weight']})
  _, with_unused = vibevoice.load(tmp_path, dtype=None)
  for got, want in zip(jax.tree.leaves(with_unused), jax.tree.leaves(params), strict=True):
    np.testing.assert_array_equal(got, want)


def write(folder, arrays):
  from safetensors.numpy import save_file

  save_file(arrays, folder / 'model.safetensors')


@pytest.mark.parametrize(
  ('size', 'count', 'parameters'),
  # Of Realtime's 605 tensors and 1.018 billion parameters one table is never read.
  [('1.5B', 1204, 2.704e9), ('7B', 1205, 9.343e9), ('Realtime-0.5B', 604, 1.018e9 - 151936 * 896)],
)
def test_published_checkpoints_have_their_tensors_and_parameters(size, count, parameters):
  config = vibevoice.CONFIGS[size]
  speaks = isinstance(config, Config)
  spec = (model if speaks else realtime).spec(config)
  tree = names(config, 'original') if speaks else realtime_names(config)
  stored = {name for _, source, s in leaves(tree, spec) for _, name in source.names(s.shape)}
  assert len(stored) == count
  assert params_lib.count(spec) == pytest.approx(parameters, rel=5e-4)


@pytest.mark.parametrize('layout', LAYOUTS)
def test_an_adapter_comes_back_on_its_base(tmp_path, drawn, layout):
  params = drawn(model.spec(TTS))
  vibevoice.save(tmp_path / 'base', TTS, params)
  pattern = r'language\.blocks\.attn\.[qkvo]|head\.blocks\.(gate|up|down)'
  adapted = lora.adapt(jax.random.key(0), params, model.spec(TTS), pattern, rank=3)
  adapted = params_lib.map_weights(lambda _, w: w.replace(b=w.b + 1), adapted, pattern)
  vibevoice.save_adapter(tmp_path / 'adapter', TTS, adapted, layout=layout)
  _, loaded = vibevoice.load(tmp_path / 'base', dtype=jnp.float32, adapter=tmp_path / 'adapter')
  for got, want in zip(jax.tree.leaves(loaded), jax.tree.leaves(adapted), strict=True):
    np.testing.assert_array_equal(got, want)


def test_wrong_kinds_are_named(tmp_path, drawn):
  vibevoice.save(tmp_path, TTS, drawn(model.spec(TTS)))
  path = tmp_path / 'config.json'
  config = json.loads(path.read_text())

  def refused(changed, match):
    path.write_text(json.dumps(changed))
    with pytest.raises(CheckpointError, match=match):
      vibevoice.load(tmp_path)

  without_head = {k: v for k, v in config.items() if k != 'diffusion_head_config'}
  refused(without_head, 'recognises speech')
  refused(config | {'model_type': 'qwen2'}, "model_type 'qwen2'; expected one of")
  refused(config | {'turbo': 3}, 'turbo=3')
  streaming = config | {'model_type': 'vibevoice_streaming', 'negative_token_id': 260}
  streaming['tts_backbone_num_hidden_layers'] = 1
  refused(streaming, 'describes Realtime; the tensors are those of TTS in the original layout')
  refused(streaming | {'tts_backbone_num_hidden_layers': 2}, 'tts_backbone_num_hidden_layers=2; expected 1 to 1')
  tokenizer = config['acoustic_tokenizer_config']
  refused(config | {'acoustic_tokenizer_config': tokenizer | {'pad_mode': 'reflect'}}, "pad_mode='reflect'")
  refused(config | {'acoustic_tokenizer_config': tokenizer | {'decoder_ratios': [2, 4, 5]}}, 'mirror of the encoder')
  refused(config | {'audio_token_id': 400}, 'slot=400 is outside the vocabulary')

  path.write_text(json.dumps(config))
  write(tmp_path, tensors(tmp_path) | {'model.prediction_head.x': np.zeros(3, np.float32)})
  with pytest.raises(CheckpointError, match=r'model\.prediction_head\.x: not part of this model'):
    vibevoice.load(tmp_path)


def test_old_names_of_sub_configs_and_lists_of_depths_are_read(tmp_path, drawn):
  vibevoice.save(tmp_path, TTS, drawn(model.spec(TTS)))
  path = tmp_path / 'config.json'
  config = json.loads(path.read_text())
  config['model_type'] = 'vibepod'
  for key in ('acoustic_tokenizer_config', 'semantic_tokenizer_config', 'diffusion_head_config'):
    config[key]['model_type'] = config[key]['model_type'].replace('vibevoice', 'vibepod')
  depths = config['acoustic_tokenizer_config']['encoder_depths'].split('-')
  config['acoustic_tokenizer_config']['encoder_depths'] = [int(d) for d in depths]
  path.write_text(json.dumps(config))
  assert vibevoice.load(tmp_path)[0] == _as_written(TTS)


def test_what_a_layout_cannot_say_is_refused(tmp_path, drawn):
  params = drawn(model.spec(TTS))
  with pytest.raises(ValueError, match="layout 'C'"):
    vibevoice.save(tmp_path, TTS, params, layout='C')
  with pytest.raises(ValueError, match='Realtime model'):
    vibevoice.save(tmp_path, REALTIME, params, layout='transformers')
  odd = dataclasses.replace(TTS, acoustic=dataclasses.replace(TTS.acoustic, kernel=5))
  with pytest.raises(ValueError, match='kernel=5'):
    vibevoice.save(tmp_path, odd, params)


def test_scalars_are_scalars_in_the_file(tmp_path, drawn):
  params = drawn(model.spec(TTS))
  vibevoice.save(tmp_path, TTS, params)
  assert Files(tmp_path).tensors['model.speech_scaling_factor'].shape == ()
  _, loaded = vibevoice.load(tmp_path, dtype=jnp.float32)
  assert float(loaded.scaling.scale) == float(params.scaling.scale)
