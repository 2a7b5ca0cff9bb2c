"""Routing in conversations and in the engine: modes, what is saved, and that answers do not depend on the batch."""

import dataclasses
import pathlib
import runpy

import numpy as np
import pytest
from PIL import Image

import internvl
from core.engine import Engine, Request
from internvl import chat as answer
from internvl.features import Images, Tiles, media_of
from internvl.flash import overlay, router, routing
from tests.internvl.tiny import IMAGES, model, processor

LOOK = [{'role': 'user', 'content': '<image>\nWhat is it?'}]
TWO = [{'role': 'user', 'content': '<image> or <image>?'}]
P = processor()
PROGRAM = runpy.run_path(str(pathlib.Path(internvl.__file__).with_name('chat.py')), run_name='chat_program')


@pytest.fixture(scope='module')
def flash():
  """(config, params) whose router gives the tiles of IMAGES scores on both sides of its absolute threshold."""
  config, params = model(P, flash=router.Config())
  seen = np.concatenate([scores(config, params, image) for image in IMAGES])
  middle = float(np.median(seen))
  assert np.ptp(seen) > 1e-3
  return dataclasses.replace(config, flash=router.Config(relative=0.0, absolute=middle)), params


def scores(config, params, image):
  return Images(params, config).score(P(LOOK, [image]).pixels)


def chatting(config, params, messages, images, **options):
  """(answers, routings) of conversations."""
  seen = []
  said = answer(
    params,
    config,
    P,
    messages,
    images=images,
    max_new_tokens=8,
    temperature=1.0,
    seed=3,
    routed=lambda prompts, routings: seen.append((prompts, routings)),
    **options,
  )
  return said, seen[0][1]


@pytest.mark.slow
def test_off_is_the_base_model_and_all_saves_three_quarters(flash):
  config, params = flash
  base = dataclasses.replace(config, flash=None), params.replace(compact=None, router=None)
  said, (off,) = chatting(*flash, LOOK, IMAGES[:1], compression='off')
  assert said == chatting(*base, LOOK, IMAGES[:1])[0] and off.saved == 0
  other, (every,) = chatting(*flash, LOOK, IMAGES[:1], compression='all')
  tiles = len(every.compressed)
  assert every.saved == tiles * (config.tokens_per_tile - config.compact_tokens) and other != said
  assert every.summary().endswith(f'image tokens: {tiles} instead of {4 * tiles}, 75% saved')
  with pytest.raises(ValueError, match='only a Flash model can compress'):
    chatting(*base, LOOK, IMAGES[:1], compression='all')
  with pytest.raises(ValueError, match=r"compression='half'; expected one of"):
    chatting(*flash, LOOK, IMAGES[:1], compression='half')


@pytest.mark.parametrize('compression', [pytest.param('auto', marks=pytest.mark.slow), 'absolute'])
def test_each_of_several_conversations_is_routed_as_alone(flash, compression):
  talks, images = [LOOK, TWO, LOOK], [IMAGES[:1], IMAGES[1:3], IMAGES[3:]]
  together, routings = chatting(*flash, talks, images, compression=compression)
  for i in range(3):
    alone, (own,) = chatting(*flash, talks[i], images[i], compression=compression)
    np.testing.assert_array_equal(own.compressed, routings[i].compressed)
    assert alone == together[i]
  kinds = np.concatenate([r.compressed for r in routings])
  assert kinds.any() and not kinds.all()


@pytest.mark.slow
def test_a_later_turn_with_kept_keys_answers_as_a_fresh_one(flash):
  """A second image moves the quantile, so tiles of the first turn may be routed anew."""
  later = [*LOOK, {'role': 'assistant', 'content': 'a dot'}, {'role': 'user', 'content': 'And <image>?'}]
  cache = internvl.PrefixCache()
  chatting(*flash, LOOK, IMAGES[:1], compression='auto', prefix_cache=cache)
  kept, _ = chatting(*flash, later, IMAGES[:2], compression='auto', prefix_cache=cache)
  assert kept == chatting(*flash, later, IMAGES[:2], compression='auto')[0]


def engine_answers(config, params, images: list, compression: str) -> list:
  """(tile_tokens, answer) of one question about each image, asked in one engine."""
  source = Images(params, config)
  sizes = {'slots': 2, 'pages': 80, 'page_size': 4, 'segment': 4, 'chunk': 16}
  engine = Engine(params.language, config.language, features=source, **sizes)
  routed = [source.route(P(LOOK, [image]), compression)[0] for image in images]
  for x in routed:
    engine.submit(Request(x.tokens.tolist(), 6, media=media_of(x), temperature=1.0, seed=1))
  return [(x.tile_tokens.tolist(), c.tokens.tolist()) for x, c in zip(routed, engine.run(), strict=True)]


@pytest.mark.slow
def test_engine_answers_by_absolute_routing_do_not_depend_on_the_batch(flash):
  together = engine_answers(*flash, IMAGES, 'absolute')
  assert len({n for tiles, _ in together for n in tiles}) == 2
  for i in (0, 3):
    assert engine_answers(*flash, IMAGES[i : i + 1], 'absolute') == together[i : i + 1]


@pytest.mark.slow
def test_engine_says_what_the_conversation_says(flash):
  config, params = flash
  for compression in ('auto', 'all'):
    said, _ = chatting(config, params, LOOK, IMAGES[1:2], compression=compression)
    source = Images(params, config)
    engine = Engine(params.language, config.language, features=source, slots=2, pages=80, page_size=4, segment=4)
    x, _ = source.route(P(LOOK, IMAGES[1:2]), compression)
    engine.submit(
      Request(x.tokens.tolist(), 8, media=media_of(x), stops=(P.stop_id, P.pad_id), temperature=1.0, seed=3)
    )
    (done,) = engine.run()
    assert P.answer(done.tokens) == said


def test_the_same_tile_with_other_token_counts_is_another_feature(flash):
  config, params = flash
  source = Images(params, config)
  pixels = P(LOOK, IMAGES[:1]).pixels[:1]
  image = config.image_token
  names = []
  for count in (config.tokens_per_tile, config.compact_tokens, config.tokens_per_tile):
    names.append(source.name([1, *[image] * count, 2], [Tiles(pixels, np.array([count]))]))
    source.encode(names[-1])
  assert source.encoded == 2 and names[0].tolist() == names[2].tolist()
  few = source.embeddings(names[1][1:-1])
  want = internvl.model.project(params, config, internvl.model.patches(params, config, pixels)[0], compressed=True)
  np.testing.assert_allclose(few, want[0], rtol=1e-4, atol=1e-5)
  for tile_tokens, why in (([2], 'expected some of'), ([4, 4], 'expected some of')):
    with pytest.raises(ValueError, match=why):
      source.name([1, image, image, 2], [Tiles(pixels, np.array(tile_tokens))])


def test_the_picture_shows_the_page_as_it_was_cut():
  x = P(LOOK, IMAGES[:1])  # two tiles in a row, and a thumbnail
  compressed = np.array([True, False, True])
  drawn = overlay.draw(x, routing.Routing(compressed, None, 4, 1), P.config)
  cell, gap = overlay.CELL, overlay.GAP
  assert drawn.size == (3 * cell + 3 * gap, cell + 2 * gap)
  plain = overlay.draw(x, routing.Routing(np.zeros(3, bool), None, 4, 1), P.config)
  middle = [(gap + cell // 2 + shift, gap + cell // 2) for shift in (0, cell, 2 * cell + gap)]
  changed = [drawn.getpixel(at) != plain.getpixel(at) for at in middle]
  assert changed == compressed.tolist()
  with pytest.raises(ValueError, match='a prompt with an image'):
    overlay.draw(P([{'role': 'user', 'content': 'hi'}]), routing.Routing(compressed[:0], None, 4, 1), P.config)


@pytest.mark.slow
def test_the_program_says_what_is_compressed_and_draws_it(flash, tmp_path, capsys):
  config, params = flash
  internvl.save(tmp_path / 'model', config, params)
  P.save(tmp_path / 'model')
  Image.fromarray(IMAGES[0]).save(tmp_path / 'a.png')
  png = tmp_path / 'tiles.png'
  flags = [f'--model={tmp_path}', f'--image={tmp_path}/a.png', '--prompt=What?', '--max_new_tokens=2']
  run = lambda *more: PROGRAM['main'](['chat', *flags, *more])
  assert run('--compression=all', f'--tiles_png={png}') == 0
  wrote = capsys.readouterr()
  assert wrote.err == 'compressed tiles: 1, 2, 3 (of 3); image tokens: 3 instead of 12, 75% saved\n'
  assert Image.open(png).size[0] > 3 * overlay.CELL
  assert run('--compression=off') == 0 and not capsys.readouterr().err
  assert run('--tiles_png=/nowhere/a.png') == 2 and 'folder that exists' in capsys.readouterr().err
  assert run('--compression=some') == 2 and 'some' in capsys.readouterr().err
  internvl.save(tmp_path / 'model', dataclasses.replace(config, flash=None), params.replace(compact=None, router=None))
  assert run('--compression=all') == 1
  assert 'only a Flash model can compress' in capsys.readouterr().err
