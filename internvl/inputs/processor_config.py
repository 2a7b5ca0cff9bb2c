"""The constants of InternVL's input side, and the files of a checkpoint folder that they come from."""

from __future__ import annotations

import dataclasses
from typing import get_args

from core.files import store
from core.files.config import read_json, write_json
from core.files.store import Folder, FolderPath
from internvl.inputs.images import Transparency
from internvl.inputs.templates import LAYOUTS
from internvl.inputs.tiles import MEAN, STD

# Published name in preprocessor_config.json -> our field. The last ones are ours alone.
_PREPROCESSOR_KEYS = {
  'min_patches': 'min_tiles',
  'max_patches': 'max_tiles',
  'image_mean': 'mean',
  'image_std': 'std',
  'use_thumbnail': 'thumbnail',
  'template': 'template',
  'system': 'system',
  'share_tiles': 'share_tiles',
  'max_length': 'max_length',
  'video_frames': 'video_frames',
  'transparency': 'transparency',
}


@dataclasses.dataclass(frozen=True)
class ProcessorConfig:
  """What turns messages, images and videos into tokens and pixels.

  Attributes:
    image_size: side of a tile in pixels.
    tokens_per_tile: `<IMG_CONTEXT>` tokens of a tile: (image_size / patch · downsample)².
    min_tiles, max_tiles: bounds on the tiles of an image, its thumbnail not counted.
    thumbnail: append the whole image as one more tile when there are several.
    share_tiles: the images of one conversation share `max_tiles` (the original does, transformers does not).
    template: a key of `templates.LAYOUTS`.
    system: the system text; None for the layout's own, '' for no system turn.
    mean, std: of the RGB channels, for pixels in 0..1.
    max_length: the longest prompt or training example in tokens.
    video_frames: frames taken of a video.
    transparency: transparent pixels are composited on 'white'; 'drop' ignores the alpha channel, as published.
  """

  image_size: int = 448
  tokens_per_tile: int = 256
  min_tiles: int = 1
  max_tiles: int = 12
  thumbnail: bool = True
  share_tiles: bool = True
  template: str = 'internvl2_5'
  system: str | None = None
  mean: tuple[float, float, float] = MEAN
  std: tuple[float, float, float] = STD
  max_length: int = 40960
  video_frames: int = 8
  transparency: Transparency = 'white'

  def __post_init__(self):
    for name in ('image_size', 'tokens_per_tile', 'min_tiles', 'max_length', 'video_frames'):
      if getattr(self, name) < 1:
        raise ValueError(f'{name} must be at least 1, not {getattr(self, name)}')
    if self.max_tiles < self.min_tiles:
      raise ValueError(f'max_tiles ({self.max_tiles}) is less than min_tiles ({self.min_tiles})')
    if self.template not in LAYOUTS:
      raise ValueError(f'unknown template {self.template!r}; known are {", ".join(LAYOUTS)}')
    if self.transparency not in get_args(Transparency):
      raise ValueError(f'transparency is {self.transparency!r}; expected one of {get_args(Transparency)}')
    for name in ('mean', 'std'):
      values = getattr(self, name)
      if len(values) != 3 or (name == 'std' and min(values) <= 0):
        raise ValueError(f'{name} must be 3 numbers' + ' above 0' * (name == 'std') + f', not {values}')

  def limits(self, *, max_tiles: int | None, frames: int | None) -> dict[str, int]:
    """Both limits of a call, our own in place of None. Raises ValueError for one that no image or video can keep."""
    limits = {
      'max_tiles': self.max_tiles if max_tiles is None else max_tiles,
      'frames': self.video_frames if frames is None else frames,
    }
    for (name, value), least in zip(limits.items(), (self.min_tiles, 1)):
      if value < least:
        raise ValueError(f'{name}={value}: expected {least} or more')
    return limits


def read(path: FolderPath) -> ProcessorConfig:
  """The processor's constants from a checkpoint folder of either published layout, or saved by `write`.

  Reads config.json, then preprocessor_config.json and processor_config.json over it, each where it exists.

  Raises:
    FileNotFoundError: none of them exists.
    ValueError: a file is not JSON, or says what this code cannot do or what contradicts another file.
  """
  folder = store.folder(path)
  model, image, processor = (
    _read(folder, f'{name}.json') for name in ('config', 'preprocessor_config', 'processor_config')
  )
  if model is image is processor is None:
    raise FileNotFoundError(
      f'{folder}: no config.json, preprocessor_config.json or processor_config.json in this folder'
    )
  fields = {}
  if model:
    fields = _from_model(model, f'{folder}/config.json')
  processor = processor or {}
  # Since version 5 transformers may nest the image processor's settings in processor_config.json.
  for source in (image or {}, processor.get('image_processor') or {}):
    fields |= _from_preprocessor(source)
  length = processor.get('image_seq_length')
  if length is not None and fields.setdefault('tokens_per_tile', length) != length:
    raise ValueError(
      f'{folder}: processor_config.json says {length} tokens per tile, config.json gives {fields["tokens_per_tile"]}'
    )
  try:
    return ProcessorConfig(**fields)
  except ValueError as error:
    raise ValueError(f'{folder}: {error}') from error


def declared_image_id(path: FolderPath) -> int | None:
  """The `image_token_id` that config.json of the -HF layout states; None where none is stated."""
  return (_read(store.folder(path), 'config.json') or {}).get('image_token_id')


def write(path: FolderPath, config: ProcessorConfig) -> None:
  """Writes preprocessor_config.json and processor_config.json as the -HF checkpoints have them.

  Settings that those have no key for are further keys of preprocessor_config.json.
  """
  size = {'height': config.image_size, 'width': config.image_size}
  image = {
    'image_processor_type': 'GotOcr2ImageProcessor',
    'crop_to_patches': config.max_tiles > 1,
    'do_convert_rgb': True,
    'do_normalize': True,
    'do_rescale': True,
    'do_resize': True,
    'resample': 3,
    'rescale_factor': 1 / 255,
    'size': size,
  }
  image |= {key: getattr(config, field) for key, field in _PREPROCESSOR_KEYS.items()}
  processor = {'processor_class': 'InternVLProcessor', 'image_seq_length': config.tokens_per_tile}
  write_json(path, 'preprocessor_config.json', image)
  write_json(path, 'processor_config.json', processor)


def _read(folder: Folder, name: str) -> dict | None:
  if folder.has(name):
    return read_json(folder, name)
  return None


def _from_model(config: dict, file: str) -> dict:
  """Fields from config.json: of the original layout (`llm_config`) or of the -HF one (`text_config`)."""
  original = 'llm_config' in config
  text = config.get('llm_config' if original else 'text_config')
  vision = config.get('vision_config')
  if not (isinstance(text, dict) and isinstance(vision, dict)):
    raise ValueError(f'{file}: needs vision_config and llm_config or text_config to be an InternVL config')
  for key, only in (('pad2square', False), ('ps_version', 'v2')):
    if config.get(key, only) != only:
      raise ValueError(f'{file}: {key} = {config[key]!r} is not supported, only {only!r}')
  try:
    size = _side(config.get('force_image_size') or vision['image_size'])
    patches = size // _side(vision['patch_size']) * config['downsample_ratio']
  except KeyError as error:
    raise ValueError(f'{file}: has no {error}') from error
  fields = {'image_size': size, 'tokens_per_tile': round(patches**2)}
  if 'max_position_embeddings' in text:
    fields['max_length'] = text['max_position_embeddings']
  if not original:
    harmony = text.get('model_type') == 'gpt_oss'
    return fields | {'template': 'internvl3_5_gpt_oss' if harmony else 'internvl_hf', 'share_tiles': False}
  keys = {
    'min_dynamic_patch': 'min_tiles',
    'max_dynamic_patch': 'max_tiles',
    'use_thumbnail': 'thumbnail',
    'template': 'template',
  }
  fields |= {field: config[key] for key, field in keys.items() if key in config}
  if not config.get('dynamic_image_size', True):
    fields |= {'min_tiles': 1, 'max_tiles': 1}
  return fields


def _from_preprocessor(source: dict) -> dict:
  fields = {field: source[key] for key, field in _PREPROCESSOR_KEYS.items() if key in source}
  fields |= {name: tuple(fields[name]) for name in ('mean', 'std') if name in fields}
  if 'size' in source:
    fields['image_size'] = _side(source['size'])
  return fields


def _side(size) -> int:
  """The side of a square given as a number, a pair, or {height, width}."""
  if isinstance(size, int):
    return size
  pair = [size.get('height'), size.get('width')] if isinstance(size, dict) else list(size)
  if len(pair) != 2 or pair[0] != pair[1] or not isinstance(pair[0], int):
    raise ValueError(f'a square size was expected, not {size}')
  return pair[0]
