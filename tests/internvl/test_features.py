"""Requests with images: each distinct tile is encoded once, and tokens are those of the simple sampler."""

import dataclasses
import threading

import jax
import ml_dtypes
import numpy as np
import pytest

import internvl
from core.engine import Engine, Request
from core.engine import generate as loop
from core.engine.sampling import Sampling
from internvl import model
from internvl.features import Images

TINY = internvl.CONFIGS['tiny']
CONFIG = dataclasses.replace(
  TINY,
  language=dataclasses.replace(TINY.language, depth=1, tied=False, max_length=64),
  vision=dataclasses.replace(TINY.vision, depth=1),
)
PARAMS = jax.tree.map(lambda w: 5 * w if w.ndim > 1 else w, internvl.init(jax.random.key(0), CONFIG))
PER_TILE, SIDE = CONFIG.tokens_per_tile, CONFIG.vision.image_size
TILES = np.random.default_rng(0).standard_normal((3, SIDE, SIDE, 3)).astype(np.float32)


def prompt(*images):
  """Text around the image tokens of some tiles."""
  out = [5, 6]
  for image in images:
    out += [CONFIG.image_token] * (PER_TILE * len(image)) + [7]
  return [*out, 8, 9]


def engine():
  images = Images(PARAMS, CONFIG)
  sizes = {'slots': 2, 'pages': 60, 'page_size': 4, 'segment': 4, 'chunk': 16}
  return Engine(PARAMS.language, CONFIG.language, features=images, **sizes)


def generate(tokens, tiles, n, params=PARAMS):
  """The simple sampler on the model's own embeddings."""
  rows = np.array([tokens] * n, np.int32)
  images = np.broadcast_to(
    model.encode(params, CONFIG, np.concatenate(tiles))[0], (n, sum(map(len, tiles)), PER_TILE, CONFIG.language.width)
  )
  x = model.embed(params, CONFIG, rows, images)
  state = loop.run(
    params.language,
    CONFIG.language,
    x,
    np.tile(np.arange(len(tokens)), (n, 1)),
    max_new=8,
    sampling=Sampling.of(n, temperature=1.0, seed=1),
  )
  return np.asarray(state.tokens)[:, :8].tolist()


@pytest.mark.slow
def test_tokens_equal_the_simple_samplers_and_tiles_are_encoded_once():
  e = engine()
  one, two, swapped = [TILES[:1]], [TILES[:2], TILES[2:]], [TILES[1:], TILES[:1]]
  for images in (one, two, swapped, one):
    e.submit(Request(prompt(*images), 8, n=3, media=images, temperature=1.0, seed=1))
  got = [c.tokens.tolist() for c in e.run()]
  want = [row for images in (one, two, swapped, one) for row in generate(prompt(*images), images, 3)]
  assert got == want and len({tuple(row) for row in want}) == 9
  assert e._features.encoded == 3
  # The last prompt equals the first, and the second begins with its text and image. The third has only the text in
  # common, and enters at once rather than wait for that.
  lengths = [len(prompt(*images)) for images in (one, two, swapped)]
  assert e.stats.prefilled == sum(lengths) - 3 - (2 + PER_TILE)


@pytest.mark.slow
def test_new_weights_see_anew():
  e = engine()
  other = internvl.init(jax.random.key(1), CONFIG)
  other = jax.tree.map(lambda w: 5 * w if w.ndim > 1 else w, other)
  for params in (PARAMS, other):
    e.update(params)
    e.submit(Request(prompt(TILES), 8, n=2, media=[TILES], temperature=1.0, seed=1))
    assert [c.tokens.tolist() for c in e.run()] == generate(prompt(TILES), [TILES], 2, params)


def test_forks_keep_their_images():
  e = engine()
  (id,) = e.submit(Request(prompt(TILES[:1]), 8, media=[TILES[:1]], temperature=1.0, seed=1))
  e.step()
  (fork,) = e.fork(id, len(prompt(TILES[:1])) + 2, seed=1)
  e.cancel(id)
  e.scheduler.clear()  # so that the image is filled in again
  (done,) = e.run()
  assert done.id == fork and done.tokens.tolist() == generate(prompt(TILES[:1]), [TILES[:1]], 1)[0][2:]
  assert not e._features.users


def test_impossible_images_are_refused():
  e = engine()
  for tokens, images, message in (
    ([1, 2], [TILES[:1]], '0 image tokens and 1 tiles'),
    (prompt(TILES[:1]), [], '0 tiles'),
    ([1] + [CONFIG.image_token] * PER_TILE, [TILES[:1]], 'must be text'),
    (prompt(TILES[:1]), [TILES[:1, 1:]], 'expected'),
  ):
    with pytest.raises(ValueError, match=message):
      e.submit(Request(tokens, 4, media=images))


def test_features_computed_before_enter_in_place_of_tiles_with_any_number_of_tokens():
  """Those of a tile give the tile's tokens; bfloat16 ones the tokens of the same values in float32."""
  e = engine()
  options = {'temperature': 1.0, 'seed': 1, 'n': 2}
  features = np.asarray(model.encode(PARAMS, CONFIG, TILES[:1])[0][0])
  e.submit(Request(prompt(TILES[:1]), 8, media=[features], **options))
  assert [c.tokens.tolist() for c in e.run()] == generate(prompt(TILES[:1]), [TILES[:1]], 2)
  assert not e._features.encoded
  r = np.random.default_rng(1)
  few, many = (r.standard_normal((n, CONFIG.language.width)).astype(ml_dtypes.bfloat16) for n in (1, PER_TILE + 2))
  image = CONFIG.image_token
  tokens = [5, image, 6, *[image] * (PER_TILE + 2), *[image] * PER_TILE, 7]
  got = []
  for dtype in (ml_dtypes.bfloat16, np.float32):
    e.submit(Request(tokens, 8, media=[few.astype(dtype), many.astype(dtype), TILES[:1]], **options))
    got.append([c.tokens.tolist() for c in e.run()])
  assert got[0] == got[1] and e._features.encoded == 1 and not e._features.users


def test_no_thread_encodes_while_the_weights_are_replaced():
  images = Images(PARAMS, CONFIG)
  names = images.name(prompt(TILES[:1]), [TILES[:1]])
  lay, failed = images._lay, []

  def encode():
    try:
      images.encode(names)
    except Exception as error:  # shown by the main thread
      failed.append(error)

  thread = threading.Thread(target=encode)

  def lay_while_another_encodes(weights):
    thread.start()
    thread.join(0.2)  # it waits for this thread, which is not to wait for it
    return lay(weights)

  images._lay = lay_while_another_encodes
  images.update(PARAMS)
  thread.join(60)
  assert not failed and images.encoded == 1
