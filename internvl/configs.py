"""The published sizes of InternVL3.5 and of its Flash models, and tiny ones."""

import dataclasses

from core import decoder
from internvl import vision
from internvl.flash import router
from internvl.model import Config

INTERNVIT_300M = vision.Config(
  width=1024, mlp_width=4096, depth=24, heads=16, norm='layer', qkv_bias=True, qk_norm=False
)
INTERNVIT_6B = vision.Config(width=3200, mlp_width=12800, depth=45, heads=25, norm='rms', qkv_bias=False, qk_norm=True)
IMG_CONTEXT = 151671  # `<IMG_CONTEXT>` of the Qwen3 tokenizers; of others it is read from the tokenizer


def _size(tower: vision.Config, language: str, image_token: int = IMG_CONTEXT) -> Config:
  # The released checkpoints store a head of their own even where the text model ties it.
  return Config(tower, dataclasses.replace(decoder.CONFIGS[language], tied=False), image_token)


_BASE = {
  '1B': _size(INTERNVIT_300M, 'qwen3-0.6b'),
  '2B': _size(INTERNVIT_300M, 'qwen3-1.7b'),
  '4B': _size(INTERNVIT_300M, 'qwen3-4b'),
  '8B': _size(INTERNVIT_300M, 'qwen3-8b'),
  '14B': _size(INTERNVIT_300M, 'qwen3-14b'),
  '38B': _size(INTERNVIT_6B, 'qwen3-32b'),
  '20B-A4B': _size(INTERNVIT_300M, 'gpt-oss-20b', 200024),
  '30B-A3B': _size(INTERNVIT_300M, 'qwen3-30b-a3b'),
  '241B-A28B': _size(INTERNVIT_6B, 'qwen3-235b-a22b'),
  'tiny': Config(
    vision.Config(
      width=64,
      mlp_width=192,
      depth=2,
      heads=4,
      norm='layer',
      qkv_bias=True,
      qk_norm=False,
      image_size=16,
      patch=4,
      layer_scale=1.0,
    ),
    decoder.CONFIGS['tiny'],
    image_token=258,
  ),
}
# Half the width and depth of the tiny tower: for tasks whose pictures are simple, at a quarter of its cost.
_BASE['micro'] = dataclasses.replace(
  _BASE['tiny'], vision=dataclasses.replace(_BASE['tiny'].vision, width=32, mlp_width=64, depth=1)
)


def _flash(size: str) -> Config:
  # The thresholds of the released files are not known here: these are ours, and a folder's own are read from it.
  return dataclasses.replace(_BASE[size], flash=router.Config())


CONFIGS = _BASE | {
  '8B-Flash': _flash('8B'),
  '30B-A3B-Flash': _flash('30B-A3B'),
  '38B-Flash': _flash('38B'),
  '241B-A28B-Flash': _flash('241B-A28B'),
  'tiny-flash': _flash('tiny'),
}
