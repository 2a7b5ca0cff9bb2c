"""A Flash model as a policy: tiles of different numbers of image tokens, in the engine and in training."""

import dataclasses

import jax
import numpy as np
import pytest

import internvl
from core import mesh
from core.engine import EngineSize
from internvl.features import Images, media_of
from internvl.flash import router, slots
from internvl.inputs.processor import compress
from rl import policy
from rl.policy import Draw, Trajectory

ONE = mesh.make(devices=jax.devices()[:1])
R = np.random.default_rng(0)
SHAPES = ((16, 16), (16, 32), (48, 16), (20, 60))  # one tile, and two or three


@pytest.fixture(scope='module')
def made():
  base, _ = policy.load('tiny', ONE, seed=3)
  p = dataclasses.replace(base, config=dataclasses.replace(base.config, flash=router.Config()))
  return p, internvl.init(jax.random.key(3), p.config)


def prompt(p, pictures: int, rng):
  """A prompt of several images whose tiles are compressed at random; all of an image's tiles differ from others'."""
  images = [rng.integers(0, 256, (*SHAPES[rng.integers(len(SHAPES))], 3), np.uint8) for _ in range(pictures)]
  text = ' and '.join(['<image>'] * pictures) + ' what of <IMG_CONTEXT>?'
  x = p.prompt([{'role': 'user', 'content': text}], images)
  inputs = p.processor([{'role': 'user', 'content': text}], images)
  chosen = rng.random(len(x.tile_tokens)) < 0.5
  short = compress(inputs, p.config.image_token, chosen, p.config.compact_tokens)
  return dataclasses.replace(x, tokens=short.tokens, tile_tokens=short.tile_tokens)


def answer(p, rng) -> np.ndarray:
  """A response with the text of the image token, and with the token itself."""
  said = p.response('I see <IMG_CONTEXT> there').tolist()
  said.insert(int(rng.integers(len(said))), p.config.image_token)
  return np.array(said, np.int32)


@pytest.mark.slow
@pytest.mark.parametrize('layout', ['shared', 'rows'])
def test_engine_and_trainer_expand_the_same_image_tokens(made, layout):
  p, weights = made
  rng = np.random.default_rng(1)
  prompts = [prompt(p, int(rng.integers(1, 4)), rng) for _ in range(250)]
  groups = [[Trajectory.given(x, answer(p, rng))] for x in prompts]
  size = p.slots(groups, layout)
  inputs = p.inputs(groups, layout, size)
  places = np.asarray(p.places(inputs))
  order = np.asarray(slots.features_of(places, inputs.tile_tokens, p.config.tokens_per_tile))
  images = Images(weights, p.config, ONE, spare=0)
  for i, x in enumerate(prompts):
    names = images.name(x.tokens, media_of(x))
    taken = [images._store._of(int(name)) for name in names[names < 0]]
    engine = [(item.payload.tobytes(), -1 - int(name) - item.first) for item, name in zip(taken, names[names < 0])]
    tile, offset = np.divmod(order[i][places[i]], p.config.tokens_per_tile)
    trainer = [(x.pixels[t].tobytes(), int(o)) for t, o in zip(tile, offset)]
    assert engine == trainer and len(engine) == x.tile_tokens.sum()
    images.release(names)


@pytest.mark.slow
@pytest.mark.parametrize('layout', [pytest.param('shared', marks=pytest.mark.slow), 'rows'])
def test_training_scores_what_the_engine_sampled(made, layout):
  p, weights = made
  rng = np.random.default_rng(2)
  prompts = [prompt(p, n, rng) for n in (2, 1, 3)]
  assert len({n for x in prompts for n in x.tile_tokens.tolist()}) == 2
  engine = p.engine(weights, EngineSize(slots=4, pages=64, page_size=16, segment=4, chunk=32), ONE)
  for request in p.requests(prompts, Draw(5, temperature=0.8), samples=1, seeds=range(3)):
    engine.submit(request)
  groups = [[Trajectory(x, c.tokens, np.ones(len(c.tokens), bool), c.logp)] for x, c in zip(prompts, engine.run())]
  size = p.slots(groups, layout).bucketed()
  logp, _ = p.log_probs(weights, p.inputs(groups, layout, size), temperature=0.8)
  for row, (t,) in zip(np.asarray(logp), groups):
    start = 0 if layout == 'shared' else len(t.prompt.tokens) - 1
    got = row.reshape(-1)[start : start + len(t.tokens)]
    np.testing.assert_allclose(got, t.logp, atol=1e-4)
