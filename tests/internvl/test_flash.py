"""Flash: files, mixed numbers of image tokens in one batch, and what they equal."""

import dataclasses
import functools
import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import internvl
from core import decoder
from core.files.config import CheckpointError
from internvl import model
from internvl.data import packing
from internvl.flash import router, slots
from internvl.inputs.processor import compress
from tests.internvl.tiny import processor

BASE, FLASH = internvl.CONFIGS['tiny'], internvl.CONFIGS['tiny-flash']
FULL, FEW, IMAGE = FLASH.tokens_per_tile, FLASH.compact_tokens, FLASH.image_token
R = np.random.default_rng(0)
PIXELS = R.standard_normal((3, 16, 16, 3)).astype(np.float32)


@pytest.fixture(scope='module')
def weights():
  spec = internvl.spec(FLASH)
  r = np.random.default_rng(2)
  draw = lambda s: (r.standard_normal(s.shape) / np.sqrt(s.fan_in)).astype(np.float32)
  return jax.tree.map(draw, spec)


def flash_tensors(d: int, width: int) -> dict[str, tuple[int, ...]]:
  """Names and shapes of what a Flash checkpoint adds, as published: d of the tower, `width` of the language model."""
  pairs = {
    'mlp2.0': (16 * d,),
    'mlp2.1': (2 * width, 16 * d),
    'mlp2.4': (2 * width, 2 * width),
    'mlp2.7': (width, 2 * width),
    'gating.gate.0': (d,),
    'gating.gate.1': (2, d),
  }
  shapes = {'pooling_before_gating.query_token': (1, d)}
  for k in range(1, 5):
    attn = f'pooling_before_gating.attn{k}'
    shapes |= {f'{attn}.in_proj_weight': (3 * d, d), f'{attn}.in_proj_bias': (3 * d,)}
    pairs |= {f'{attn}.out_proj': (d, d), f'pooling_before_gating.norm{k}': (d,)}
    block = f'gating.block{k}'
    pairs |= {f'{block}.0': (4 * d, d), f'{block}.3': (d, 4 * d), f'{block}.5': (d,)}
  for name, shape in pairs.items():
    shapes |= {f'{name}.weight': shape, f'{name}.bias': shape[:1]}
  return shapes


@pytest.fixture
def folder(tmp_path, weights):
  """A Flash checkpoint in the original layout, its own tensors added by hand to the files of a base model."""
  path = tmp_path / 'published'
  internvl.save(path, BASE, weights.replace(compact=None, router=None), layout='A')
  tensors = load_file(path / 'model.safetensors')
  shapes = flash_tensors(BASE.vision.width, BASE.language.width)
  tensors |= {name: R.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
  save_file(tensors, path / 'model.safetensors', metadata={'format': 'pt'})
  rule = {'flash_mode': True, 'flash_relative_threshold': 0.25, 'flash_absolute_threshold': 0.75}
  change_config(path, **rule)
  return path


def change_config(path, **keys):
  h = json.loads((path / 'config.json').read_text()) | keys
  (path / 'config.json').write_text(json.dumps({k: v for k, v in h.items() if v is not None}))


def test_files_come_back_byte_for_byte(folder, tmp_path):
  config, params = internvl.load(folder, dtype='float32')
  assert config.flash == router.Config(relative=0.25, absolute=0.75)
  internvl.save(tmp_path / 'out', config, params)
  assert (tmp_path / 'out/model.safetensors').read_bytes() == (folder / 'model.safetensors').read_bytes()
  again, _ = internvl.load(tmp_path / 'out')
  assert again == config
  with pytest.raises(ValueError, match="'B' of a Flash model; expected 'A'"):
    internvl.save(tmp_path / 'b', config, params, layout='B')


def test_faults_of_flash_files_are_named(folder):
  for key, value, why in (
    ('flash_relative_threshold', 1.5, r'relative=1\.5'),
    ('flash_absolute_threshold', 'half', "'half'; expected a number"),
    ('flash_mode', 'maybe', "flash_mode='maybe'"),
  ):
    before = (folder / 'config.json').read_text()
    change_config(folder, **{key: value})
    with pytest.raises(CheckpointError, match=why):
      internvl.load(folder)
    (folder / 'config.json').write_text(before)
  change_config(folder, flash_mode=None, flash_relative_threshold=None, flash_absolute_threshold=None)
  assert internvl.load(folder)[0].flash == router.Config(enabled=False)  # tensors decide
  tensors = load_file(folder / 'model.safetensors')
  base = {name: w for name, w in tensors.items() if name not in flash_tensors(64, 64)}
  save_file(base, folder / 'model.safetensors')
  change_config(folder, flash_mode=False)
  assert internvl.load(folder)[0].flash is None
  change_config(folder, flash_mode=True)
  with pytest.raises(CheckpointError, match=r'mlp2\.0\.weight: missing'):
    internvl.load(folder)


def row(counts, rng=R) -> list[int]:
  """Text around tiles of these numbers of image tokens."""
  tokens = rng.integers(0, 250, 2).tolist()
  for count in counts:
    tokens += [IMAGE] * count + rng.integers(0, 250, 2).tolist()
  return tokens


@functools.partial(jax.jit, static_argnames='config')
def hidden(weights, config, tokens, **options):
  return model.forward(weights, config, tokens, **options).hidden


def at(tokens) -> np.ndarray:
  return np.arange(np.shape(tokens)[1], dtype=np.int32)[None]


def close(a, b):
  np.testing.assert_allclose(a, b, atol=2e-5 * np.abs(np.asarray(b)).max())


def test_none_compressed_is_the_base_model_bit_for_bit(weights):
  tokens = np.array([row([FULL] * 3)], np.int32)
  base = weights.replace(compact=None, router=None)
  want = hidden(base, BASE, tokens, pixels=PIXELS, positions=at(tokens))
  got = hidden(weights, FLASH, tokens, pixels=PIXELS, positions=at(tokens), tile_tokens=np.full(3, FULL))
  np.testing.assert_array_equal(got, want)


@pytest.mark.slow
def test_all_compressed_equals_a_base_run_that_is_fed_the_few_features(weights):
  full, few = (np.array([row([count] * 3, np.random.default_rng(5))], np.int32) for count in (FULL, FEW))
  assert full.size - few.size == 3 * (FULL - FEW)
  features, _ = model.patches(weights, FLASH, PIXELS)
  images = model.project(weights, FLASH, features, compressed=True)
  fed = model.embed(weights, BASE, few, images)
  want = decoder.forward(weights.language, BASE.language, fed, positions=at(few)).hidden
  got = hidden(weights, FLASH, few, pixels=PIXELS, positions=at(few), tile_tokens=np.full(3, FEW))
  close(got, want)


@pytest.mark.slow
@pytest.mark.parametrize('flat', [True, False])
def test_rows_of_a_mixed_batch_equal_each_alone(weights, flat):
  counts = [[FEW], [], [FULL, FEW]]
  rows = [row(own) for own in counts]
  width = max(map(len, rows))
  tokens = np.array([r + [0] * (width - len(r)) for r in rows], np.int32)
  positions = np.array([[*range(len(r))] + [-1] * (width - len(r)) for r in rows], np.int32)
  tiles = [PIXELS[:1], PIXELS[:0], PIXELS[1:]]
  blank = np.zeros((2, 16, 16, 3), np.float32)
  if flat:
    pixels, tile_tokens = np.concatenate([PIXELS, blank]), np.array([FEW, FULL, FEW, 0, 0])
  else:
    pixels = np.stack([np.concatenate([t, blank])[:2] for t in tiles])
    tile_tokens = np.array([[FEW, 0], [0, 0], [FULL, FEW]])
  slots.check(FLASH, tokens, pixels, tile_tokens)
  got = hidden(weights, FLASH, tokens, pixels=pixels, positions=positions, tile_tokens=tile_tokens)
  for i, (r, own, t) in enumerate(zip(rows, counts, tiles)):
    alone = {'pixels': t, 'tile_tokens': np.array(own)} if own else {}
    want = hidden(weights, FLASH, np.array([r], np.int32), positions=at([r]), **alone)
    close(got[i, : len(r)], want[0])


@pytest.mark.slow
def test_shortening_in_place_equals_the_shorter_rows(weights):
  """Packed samples laid out in full, some tiles then shortened, against the rows built without those slots."""
  chosen = [[FEW, FULL], [FEW]]
  full = [row([FULL] * len(own), np.random.default_rng(i)) for i, own in enumerate(chosen)]
  few = [row(own, np.random.default_rng(i)) for i, own in enumerate(chosen)]
  tokens = np.array([[*full[0], *full[1], 0, 0, 0]], np.int32)
  positions = np.array([[i for r in full for i in range(len(r))] + [-1] * 3], np.int32)
  segments = np.array([[k + 1 for k, r in enumerate(full) for _ in r] + [0] * 3], np.int32)
  tile_tokens = np.array([[FEW, FULL, FEW]], np.int32)
  places, closed, kept = slots.shorten(tokens == IMAGE, positions, segments, tile_tokens, FULL)
  inputs = {'pixels': PIXELS[None], 'tile_tokens': tile_tokens}
  got = hidden(weights, FLASH, tokens, positions=closed, segments=kept, places=places, **inputs)[0]
  want = np.array([few[0] + few[1]], np.int32)
  separate = {
    'positions': np.array([[i for r in few for i in range(len(r))]], np.int32),
    'segments': np.array([[k + 1 for k, r in enumerate(few) for _ in r]], np.int32),
  }
  close(got[np.asarray(kept[0]) > 0], hidden(weights, FLASH, want, **inputs, **separate)[0])
  np.testing.assert_array_equal(tokens[np.asarray(kept) > 0], want[0])


def test_the_first_slots_of_a_tile_stay():
  p = processor()
  images = [np.zeros((16, 48, 3), np.uint8), np.zeros((16, 16, 3), np.uint8)]
  x = p([{'role': 'user', 'content': '<image> and <image>'}, {'role': 'assistant', 'content': 'ok'}], images)
  chosen = np.array([True, False, False, True])
  y = compress(x, p.image_id, chosen, 1)
  assert y.tile_tokens.tolist() == [1, 4, 4, 1] and len(x.tokens) - len(y.tokens) == 2 * 3
  numbered = np.where(x.tokens == p.image_id, np.cumsum(x.tokens == p.image_id) - 1, -1)
  keep = slots.shortened(x.tokens, p.image_id, y.tile_tokens, 4)
  assert numbered[keep & (numbered >= 0)].tolist() == [0, *range(4, 12), 12]
  np.testing.assert_array_equal(y.tokens[y.tokens != p.image_id], x.tokens[x.tokens != p.image_id])
  assert y.mask.sum() == x.mask.sum()
  assert compress(x, p.image_id, np.zeros(4, bool), 1) is x
  with pytest.raises(ValueError, match='5 decisions for 4 tiles'):
    compress(x, p.image_id, np.ones(5, bool), 1)
  with pytest.raises(ValueError, match='expected 4 for each tile'):
    compress(dataclasses.replace(y, tile_tokens=x.tile_tokens), p.image_id, chosen, 1)


def test_a_cut_sample_keeps_whole_images_of_mixed_tiles():
  p = processor()
  images = [np.zeros((16, 32, 3), np.uint8), np.zeros((16, 16, 3), np.uint8)]
  talk = [{'role': 'user', 'content': '<image>, <image>'}, {'role': 'assistant', 'content': 'a long answer'}]
  x = p(talk, images)
  x = compress(x, p.image_id, np.array([True, False, True, True]), 1)
  seen = set()
  for length in range(1, len(x.tokens) + 1):
    for tiles in (2, 3, 4):
      cut = packing.shorten(x, p.image_id, length, tiles)
      assert len(cut.tokens) <= length and len(cut.pixels) <= tiles
      assert (cut.tokens == p.image_id).sum() == cut.tile_tokens.sum()
      assert len(cut.pixels) == len(cut.tile_tokens) == cut.tiles.sum() and len(cut.grids) == len(cut.tiles)
      np.testing.assert_array_equal(cut.tokens, x.tokens[: len(cut.tokens)])
      seen.add((len(cut.tiles), cut.mask.any()))
  assert {(2, True), (0, False)} <= seen


def test_tokens_and_tiles_that_do_not_match_are_refused():
  tokens = np.array([row([FULL, FEW])], np.int32)
  pixels = PIXELS[:2]
  slots.check(FLASH, tokens, pixels, np.array([FULL, FEW]))
  for tile_tokens, given, why in (
    (np.array([FULL, FULL]), pixels, 'expected equal numbers'),
    (np.array([FULL, FEW]), PIXELS, 'one number a tile'),
    (np.array([FULL, 2]), pixels, r'expected some of \[0, 1, 4\]'),
    (np.array([FULL, FEW]), None, 'one number a tile'),
  ):
    with pytest.raises(ValueError, match=why):
      slots.check(FLASH, tokens, given, tile_tokens)
  with pytest.raises(ValueError, match='expected a Flash model'):
    model.project(None, BASE, PIXELS, compressed=True)
