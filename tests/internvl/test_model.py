"""InternVL: published sizes, images in later turns, ragged tiles, rows with and without images."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import internvl
from core import params
from internvl import model, projector, vision
from internvl.flash import slots

# Parameters of the vision tower, projector, text body with embeddings, head, and in all.
SIZES = {
  '1B': (304_012_288, 5_253_120, 596_049_920, 155_582_464, 1_060_897_792),
  '2B': (304_012_288, 12_595_200, 1_720_574_976, 311_164_928, 2_348_347_392),
  '4B': (304_012_288, 17_052_672, 4_022_468_096, 388_956_160, 4_732_489_216),
  '8B': (304_012_288, 33_570_816, 7_568_405_504, 622_329_856, 8_528_318_464),
  '14B': (304_012_288, 47_204_352, 13_990_394_880, 777_912_320, 15_119_523_840),
  '38B': (5_536_496_000, 91_786_240, 31_984_210_944, 777_912_320, 38_390_405_504),
  '20B-A4B': (304_012_288, 20_104_832, 20_335_623_744, 579_133_440, 21_238_874_304),
  '30B-A3B': (304_012_288, 12_595_200, 30_220_957_696, 311_164_928, 30_848_730_112),
  '241B-A28B': (5_536_496_000, 69_239_808, 234_471_304_704, 622_329_856, 240_699_370_368),
}
CONFIG = internvl.CONFIGS['tiny']
N, IMAGE = CONFIG.tokens_per_tile, CONFIG.image_token
R = np.random.default_rng(0)
PIXELS = R.standard_normal((3, 16, 16, 3)).astype(np.float32)


@pytest.fixture(scope='module')
def weights():
  leaves, tree = jax.tree.flatten(model.init(jax.random.key(1), CONFIG))
  r = np.random.default_rng(2)
  return jax.tree.unflatten(tree, [w + (0.2 * r.standard_normal(w.shape)).astype(np.float32) for w in leaves])


@functools.partial(jax.jit, static_argnames=('slots', 'edit', 'keep'))
def apply(weights, tokens, *, slots=None, cache=None, **options):
  """`model.apply` of CONFIG compiled whole; `slots` starts a cache."""
  return model.apply(weights, CONFIG, tokens, cache=slots if cache is None else cache, **options)


def close(a, b):
  assert np.abs(np.asarray(a) - np.asarray(b)).max() <= 2e-5 * np.abs(np.asarray(b)).max()


def text(n: int) -> list[int]:
  return R.integers(0, 250, n).tolist()


@pytest.mark.parametrize('size', SIZES)
def test_published_parameter_counts(size):
  spec = internvl.spec(internvl.CONFIGS[size])
  head = params.count(spec.language.head)
  counts = (
    params.count(spec.vision),
    params.count(spec.projector),
    params.count(spec.language) - head,
    head,
    params.count(spec),
  )
  assert counts == SIZES[size]


@pytest.mark.slow
def test_an_image_in_a_second_turn_equals_the_full_pass(weights):
  first = np.array([text(3) + [IMAGE] * N + text(4)], np.int32)
  second = np.array([text(2) + [IMAGE] * N * 2 + text(3)], np.int32)
  whole = apply(weights, np.concatenate([first, second], 1), pixels=PIXELS).logits
  one = apply(weights, first, pixels=PIXELS[:1], slots=whole.shape[1] + 5)
  two = apply(weights, second, pixels=PIXELS[1:], cache=one.cache)
  close(np.concatenate([one.logits, two.logits], 1), whole)


def ragged():
  """Rows of one image, of none, of two, padded on the right: (tokens, positions, each row's tiles)."""
  rows = [text(2) + [IMAGE] * N + text(3), text(6), text(1) + [IMAGE] * N + text(1) + [IMAGE] * N + text(2)]
  width = max(map(len, rows))
  tokens = np.array([row + [0] * (width - len(row)) for row in rows], np.int32)
  at = np.array([[*range(len(row))] + [-1] * (width - len(row)) for row in rows], np.int32)
  return rows, tokens, at, (PIXELS[:1], PIXELS[:0], PIXELS[1:])


@pytest.mark.slow
def test_ragged_tiles_and_text_only_rows_equal_each_alone(weights):
  rows, tokens, at, tiles = ragged()
  rubbish = np.full((2, 16, 16, 3), 9.0, np.float32)
  flat = np.concatenate([PIXELS, rubbish])  # spare tiles at the end
  by_row = np.stack([np.concatenate([t, rubbish])[:2] for t in tiles])
  for pixels in (flat, by_row):
    out = apply(weights, tokens, pixels=pixels, positions=at).logits
    for i, (row, own) in enumerate(zip(rows, tiles)):
      alone = apply(weights, np.array([row], np.int32), pixels=own if len(own) else None).logits
      close(out[i, : len(row)], alone[0])


def test_packed_images_equal_separate_ones(weights):
  rows, _, _, _ = ragged()
  tokens = np.array([[token for row in rows for token in row]], np.int32)
  at = np.array([[i for row in rows for i in range(len(row))]], np.int32)
  segments = np.array([[k + 1 for k, row in enumerate(rows) for _ in row]], np.int32)
  out = apply(weights, tokens, pixels=PIXELS, positions=at, segments=segments).logits[0]
  last = apply(weights, np.array([rows[2]], np.int32), pixels=PIXELS[1:]).logits[0]
  close(out[-len(rows[2]) :], last)


def test_pixel_shuffle_order():
  """A 4x4 grid of two channels, numbered: the blocks of one output token in row-major order."""
  x = np.arange(32).reshape(1, 16, 2)
  assert projector.pixel_shuffle(x, 2)[0].tolist()[:2] == [[0, 1, 2, 3, 8, 9, 10, 11], [4, 5, 6, 7, 12, 13, 14, 15]]
  assert projector.pixel_shuffle(x, 4)[0, 0].tolist() == list(range(32))


def test_drop_path_is_off_unless_asked_for(weights):
  config = dataclasses.replace(CONFIG.vision, drop_path=0.5)
  want, _ = vision.apply(weights.vision, CONFIG.vision, PIXELS)
  np.testing.assert_array_equal(vision.apply(weights.vision, config, PIXELS)[0], want)
  draws = [vision.apply(weights.vision, config, PIXELS, drop_key=jax.random.key(k))[0] for k in range(3)]
  assert all(np.abs(d - want).max() > 1e-3 for d in draws) and np.abs(draws[0] - draws[1]).max() > 1e-3
  still, _ = vision.apply(weights.vision, CONFIG.vision, PIXELS, drop_key=jax.random.key(0))
  np.testing.assert_array_equal(still, want)


def test_taps_reach_both_towers(weights):
  tokens = np.array([text(2) + [IMAGE] * N + text(3)], np.int32)
  out = apply(weights, tokens, pixels=PIXELS[:1], keep=('vision.resid_out', 'resid_out'))
  assert out.kept['vision.resid_out'].shape == (2, 1, 17, 64) and out.kept['resid_out'].shape == (2, 1, 9, 64)
  blind = apply(weights, tokens, pixels=PIXELS[:1], edit=lambda site, i, x: 0 * x if site == 'vision.resid_out' else x)
  gap = np.abs(blind.logits - out.logits)[0].max(-1)
  assert (gap[:2] == 0).all() and (gap[2:] > 0).all()
  with pytest.raises(ValueError, match=r'vision\.nothing'):
    apply(weights, tokens, keep=('vision.nothing',))


def test_wrong_pixels_are_refused(weights):
  for shape in ((1, 15, 15, 3), (1, 16, 12, 3), (1, 16, 16, 4)):
    with pytest.raises(ValueError, match='multiple of 4'):
      vision.apply(weights.vision, CONFIG.vision, np.zeros(shape, np.float32))


@pytest.mark.parametrize(
  'tokens, tiles, why',
  [
    ('iiii', 0, r'places for \[1\] tiles, and the pixels hold \[0\]'),
    ('iiiiiiii', 1, r'places for \[2\] tiles, and the pixels hold \[1\]'),
    ('iiii', 2, r'places for \[1\] tiles, and the pixels hold \[2\]'),
    ('iiiit i', 1, 'row 0 has 5 image tokens; expected a multiple of 4'),
  ],
)
@pytest.mark.parametrize('flat', [True, False])
def test_image_tokens_without_their_tiles_are_refused(tokens, tiles, why, flat):
  config = internvl.CONFIGS['tiny']
  assert config.tokens_per_tile == 4
  ids = jnp.array([[config.image_token if c == 'i' else 65 for c in tokens]])
  shape = (tiles, 16, 16, 3) if flat else (1, tiles, 16, 16, 3)
  with pytest.raises(ValueError, match=why):
    slots.check(config, ids, jnp.ones(shape) if tiles else None)


def test_padding_tiles_and_tracers_pass_the_check():
  config = internvl.CONFIGS['tiny']
  ids = jnp.full((1, 4), config.image_token)
  padded = jnp.ones((3, 16, 16, 3)).at[1:].set(0)
  slots.check(config, ids, padded)
  slots.check(config, ids, padded[None])
  jax.jit(lambda x: slots.check(config, ids, x))(jnp.ones((3, 16, 16, 3)))
