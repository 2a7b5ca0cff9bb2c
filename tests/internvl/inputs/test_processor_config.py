"""The constants of the input side as published checkpoint folders give them."""

import json

import pytest

from internvl.inputs.processor_config import ProcessorConfig, read

ORIGINAL = {
  'model_type': 'internvl_chat',
  'force_image_size': 448,
  'downsample_ratio': 0.5,
  'ps_version': 'v2',
  'template': 'internvl2_5',
  'dynamic_image_size': True,
  'use_thumbnail': True,
  'min_dynamic_patch': 1,
  'max_dynamic_patch': 6,
  'pad2square': False,
  'llm_config': {'max_position_embeddings': 4096},
  'vision_config': {'image_size': 448, 'patch_size': 14},
}
CLIP = {
  'crop_size': 448,
  'do_center_crop': True,
  'image_mean': [0.485, 0.456, 0.406],
  'size': 448,
  'image_std': [0.229, 0.224, 0.225],
  'feature_extractor_type': 'CLIPFeatureExtractor',
}
HF = {
  'model_type': 'internvl',
  'downsample_ratio': 0.5,
  'text_config': {'model_type': 'qwen3'},
  'vision_config': {'image_size': [448, 448], 'patch_size': [14, 14]},
}
GOT = {
  'size': {'height': 448, 'width': 448},
  'min_patches': 1,
  'max_patches': 12,
  'crop_to_patches': False,
  'image_mean': [0.485, 0.456, 0.406],
  'image_std': [0.229, 0.224, 0.225],
}


def folder(path, **files):
  for name, content in files.items():
    (path / f'{name}.json').write_text(content if isinstance(content, str) else json.dumps(content))
  return path


def test_published_config_files(tmp_path):
  original = folder(tmp_path, config=ORIGINAL, preprocessor_config=CLIP)
  assert read(original) == ProcessorConfig(max_tiles=6, max_length=4096)
  assert read(folder(tmp_path, config=ORIGINAL | {'dynamic_image_size': False})).max_tiles == 1
  hf = folder(tmp_path, config=HF, preprocessor_config=GOT, processor_config={'image_seq_length': 256})
  assert read(hf) == ProcessorConfig(template='internvl_hf', share_tiles=False)
  nested = {'image_seq_length': 256, 'image_processor': GOT | {'max_patches': 7}}
  assert read(folder(tmp_path, config=HF, processor_config=nested)).max_tiles == 7
  gpt = HF | {'text_config': {'model_type': 'gpt_oss'}}
  assert read(folder(tmp_path, config=gpt)).template == 'internvl3_5_gpt_oss'


@pytest.mark.parametrize(
  'files, why',
  [
    ({'config': ORIGINAL | {'template': 'vicuna'}}, "unknown template 'vicuna'"),
    ({'config': ORIGINAL | {'pad2square': True}}, 'pad2square = True'),
    ({'config': ORIGINAL | {'ps_version': 'v1'}}, "ps_version = 'v1'"),
    ({'config': {'model_type': 'llama'}}, 'needs vision_config'),
    ({'config': {k: v for k, v in ORIGINAL.items() if k != 'downsample_ratio'}}, "no 'downsample_ratio'"),
    ({'config': '{"cut'}, r'config\.json: not JSON'),
    ({'config': '[]'}, 'holds a list; expected a dict'),
    ({'config': HF, 'processor_config': {'image_seq_length': 64}}, '64 tokens per tile'),
    ({'preprocessor_config': GOT | {'size': {'height': 448, 'width': 336}}}, 'square'),
    ({'preprocessor_config': GOT | {'image_std': [0, 1, 1]}}, 'std'),
    ({'preprocessor_config': GOT | {'max_patches': 0}}, 'max_tiles'),
  ],
)
def test_config_files_that_must_be_refused(tmp_path, files, why):
  with pytest.raises(ValueError, match=why):
    read(folder(tmp_path, **files))


def test_a_folder_without_config_is_named(tmp_path):
  with pytest.raises(FileNotFoundError, match=tmp_path.name):
    read(tmp_path)
