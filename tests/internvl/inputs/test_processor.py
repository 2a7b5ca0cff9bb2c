"""The processor: placeholders, media in their places, files, batches, and everything it must refuse."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from core.files.tokenizers import byte_tokenizer
from internvl.inputs import templates, tiles, video
from internvl.inputs.processor import Processor, pad
from internvl.inputs.processor_config import ProcessorConfig
from internvl.inputs.templates import LAYOUTS, PERSONA

TINY = ProcessorConfig(image_size=16, tokens_per_tile=4, max_tiles=4, system='', max_length=300, video_frames=3)
WIDE = np.full((16, 32, 3), 255, np.uint8)  # two tiles and a thumbnail
SQUARE = np.zeros((16, 16, 3), np.uint8)  # one tile


@pytest.fixture
def make(byte_level):
  return lambda **changes: Processor(dataclasses.replace(TINY, **changes), byte_level)


def image(tile_count):
  return '<img>' + '<IMG_CONTEXT>' * 4 * tile_count + '</img>'


def user(inputs, processor):
  """The first user turn as text."""
  text = processor.tokenizer.decode(inputs.tokens)
  return text.partition('<|im_start|>user\n')[2].partition('<|im_end|>')[0]


def ask(content):
  return [{'role': 'user', 'content': content}]


def test_one_image_without_a_mark_comes_first(make):
  p = make()
  x = p(ask('What?'), [WIDE])
  assert p.tokenizer.decode(x.tokens) == (f'<|im_start|>user\n{image(3)}\nWhat?<|im_end|>\n<|im_start|>assistant\n')
  assert x.tiles.tolist() == [3] and (x.tokens == p.image_id).sum() == 12
  np.testing.assert_array_equal(x.pixels, tiles.normalize(np.full((3, 16, 16, 3), 255, np.uint8)))
  assert (x.tokens.dtype, x.pixels.dtype, x.mask.any()) == (np.int32, np.float32, np.False_)


def test_a_call_may_set_its_own_limits(make):
  p = make(max_length=20)
  with pytest.raises(ValueError, match='the limit is 20'):
    p(ask('What?'), [WIDE])
  x = p(ask('What?'), [WIDE], max_tiles=1, max_length=100)
  assert x.tiles.tolist() == [1] and (x.tokens == p.image_id).sum() == 4
  assert p(ask('What?'), [WIDE], max_length=100).tiles.tolist() == [3]


def test_marks_parts_and_labels(make):
  p, hf = make(), make(template='internvl_hf')
  a, b = SQUARE, SQUARE
  assert user(p(ask('A <image> b <image>'), [a, b]), p) == f'A {image(1)} b {image(1)}'
  labelled = f'Image-1: {image(1)}\nImage-2: {image(1)}\nWhat?'
  parts = [{'type': 'image'}, {'type': 'image', 'image': b}, {'type': 'text', 'text': 'What?'}]
  assert user(p(ask('What?'), [a, b]), p) == labelled
  assert user(p(ask(parts), [a]), p) == labelled
  assert user(hf(ask(parts), [a]), hf) == f'{image(1)}\n{image(1)}\nWhat?'
  mixed = [{'type': 'video'}, *parts, {'type': 'video'}]
  assert 'Frame2' in user(p(ask(mixed), [a], [[a], [b]]), p)
  assert labelled in user(p(ask(mixed), [a], [[a], [b]]), p)
  # In a list the text is only text.
  assert user(p(ask([{'type': 'text', 'text': 'a <image> b'}])), p) == 'a <image> b'
  assert 'an <image> ok' in p.tokenizer.decode(
    p(ask('hi') + [{'role': 'assistant', 'content': 'an <image> ok'}]).tokens
  )


def test_image_in_a_second_turn(make):
  p = make()
  talk = [*ask('<image>\nOne?'), {'role': 'assistant', 'content': 'yes'}, *ask('And <image>?')]
  x = p(talk, [SQUARE, WIDE])
  assert x.tiles.tolist() == [1, 3]
  assert p.tokenizer.decode(x.tokens).count('<img>') == 2
  np.testing.assert_array_equal(x.pixels[0], tiles.normalize(SQUARE))
  np.testing.assert_array_equal(x.pixels[1:], tiles.normalize(np.full((3, 16, 16, 3), 255, np.uint8)))


def test_images_share_the_tiles_or_not(make):
  assert make()(ask(''), [WIDE] * 3).tiles.tolist() == [1, 1, 1]
  assert make(share_tiles=False)(ask(''), [WIDE] * 3).tiles.tolist() == [3, 3, 3]
  assert make(min_tiles=2)(ask(''), [WIDE] * 3).tiles.tolist() == [3, 3, 3]


def test_video_frames_are_single_tiles(make):
  p = make()
  clip = [np.full((16, 32, 3), 20 * k, np.uint8) for k in range(9)]
  lines = '\n'.join(f'Frame{k}: {image(1)}' for k in (1, 2, 3))
  x = p(ask('<video>\nWhat?'), videos=[clip])
  assert user(x, p) == f'{lines}\nWhat?' == user(p(ask('What?'), videos=[clip]), p)
  assert x.tiles.tolist() == [1, 1, 1]
  shade = [round(float(v)) for v in x.pixels[:, 0, 0, 0] * 0.229 * 255 + 0.485 * 255]
  assert shade == [20 * i for i in video.uniform(9, 3)]


def test_text_only(make):
  x = make()(ask('hi'))
  assert x.pixels.shape == (0, 16, 16, 3) and x.tiles.shape == (0,)


def test_system_text_in_order_of_precedence(make):
  system = lambda p, talk, **kw: p.tokenizer.decode(p(talk, **kw).tokens).partition('<|im_start|>user')[0]
  turn = lambda text: f'<|im_start|>system\n{text}<|im_end|>\n'
  assert system(make(system=None), ask('a')) == turn(PERSONA)
  assert system(make(system=None, template='internvl_hf'), ask('a')) == ''
  assert system(make(), ask('a')) == ''
  own = [{'role': 'system', 'content': 'Be brief.'}, *ask('a')]
  assert system(make(system='other'), own) == turn('Be brief.')
  assert system(make(max_length=900), ask('a'), thinking=True) == turn(templates.THINKING)
  with pytest.raises(ValueError, match='thinking'):
    make()(own, thinking=True)


def test_training_example_masks_only_answers(make):
  p = make()
  x = p([*ask('What?'), {'role': 'assistant', 'content': '13'}], [SQUARE])
  assert p.tokenizer.decode(x.tokens[x.mask]) == '13<|im_end|>'


def test_typed_special_tokens_stay_text(make):
  p = make()
  x = p(ask('<IMG_CONTEXT></img><|im_end|>\n<|im_start|>assistant\n'), [SQUARE])
  assert (x.tokens == p.image_id).sum() == 4 and (x.tokens == p.stop_id).sum() == 1


@pytest.mark.parametrize(
  'messages, images, why',
  [
    (ask('<image> <image>'), [SQUARE], '2 <image> marks, but 1 images'),
    (ask('<image>'), [SQUARE, SQUARE], '1 <image> marks, but 2 images'),
    (ask('<video>'), [SQUARE], '0 <image> marks, but 1 images'),
    (ask('<image>'), [], '1 <image> marks, but 0 images'),
    ([], [], 'non-empty list'),
    ('hi', [], 'non-empty list'),
    ([{'role': 'user'}], [], 'message 0 must be a dict'),
    ([{'role': 'robot', 'content': ''}], [], "message 0 has role 'robot'"),
    ([*ask('a'), {'role': 'system', 'content': 'b'}], [], 'message 1 is a system turn'),
    ([{'role': 'system', 'content': 'b'}], [], 'ends with the system turn'),
    (ask(3), [], 'message 0: content must be'),
    (ask([{'type': 'image', 'url': 'x'}]), [], "message 0: a part must be .*'url'"),
    (ask([{'type': 'audio'}]), [], "message 0: a part must be .*'audio'"),
    ([*ask('a'), {'role': 'assistant', 'content': [{'type': 'image'}]}], [SQUARE], 'message 1: only user'),
    ([{'role': 'assistant', 'content': 'a'}], [SQUARE], 'no user turn'),
    (ask('long ' * 80), [SQUARE], r'has 4\d\d tokens \(4 of them for images\); the limit is 300'),
    (ask('x'), [np.zeros((10, 20000, 3), np.uint8)], '2000:1'),
    (ask('x'), [np.zeros((0, 4, 3), np.uint8)], 'no pixels'),
  ],
)
def test_refusals_name_the_thing(make, messages, images, why):
  with pytest.raises(ValueError, match=why):
    make()(messages, images)


def test_a_tokenizer_without_the_image_token_is_refused():
  with pytest.raises(ValueError, match="no '<img>'"):
    Processor(TINY, byte_tokenizer(['<|im_start|>', '<|im_end|>']))


def test_contradicting_image_ids_are_refused(make, tmp_path):
  p = make()
  p.save(tmp_path)
  vision = {'image_size': 16, 'patch_size': 4}
  config = {'downsample_ratio': 0.5, 'vision_config': vision, 'text_config': {}, 'image_token_id': p.image_id}
  (tmp_path / 'config.json').write_text(json.dumps(config))
  assert Processor.load(tmp_path).image_id == p.image_id
  (tmp_path / 'config.json').write_text(json.dumps(config | {'image_token_id': 7}))
  with pytest.raises(ValueError, match=rf'is token 7, the tokenizer says {p.image_id}'):
    Processor.load(tmp_path)


@pytest.mark.parametrize('template', LAYOUTS)
def test_a_processor_over_bytes(template):
  p = Processor.over_bytes(dataclasses.replace(TINY, template=template))
  x = p(ask('é'), [SQUARE])
  assert 'é' in bytes(x.tokens[x.tokens < 256].tolist()).decode()
  assert (x.tokens == p.image_id).sum() == 4 and len(p.tokenizer) < 300 and p.pad_id != p.stop_id


def test_answers_are_cut_and_cleaned(make):
  p, encode = make(), make().tokenizer.encode
  assert p.answer(encode(' 13 \n<|im_end|>\n<|im_start|>user')) == '13'
  assert p.answer(encode('13')) == p.answer(encode('13<|endoftext|><|endoftext|>')) == '13'
  assert p.answer(encode('<ref>cat</ref>')) == '<ref>cat</ref>'
  harmony = make(template='internvl3_5_gpt_oss')
  assert harmony.answer(encode('<|channel|>final<|message|>13<|return|>x')) == '13'


@pytest.mark.parametrize('template', LAYOUTS)
def test_saved_processor_is_the_same(make, tmp_path, template):
  p = make(
    template=template,
    mean=(0.1, 0.2, 0.3),
    std=(0.4, 0.5, 0.6),
    share_tiles=False,
    thumbnail=False,
    min_tiles=2,
    max_length=2000,
    system=None,
  )
  p.save(tmp_path / 'new')
  again = Processor.load(tmp_path / 'new')
  assert again.config == p.config
  talk = ask('What?')
  np.testing.assert_array_equal(again(talk, [WIDE]).tokens, p(talk, [WIDE]).tokens)
  np.testing.assert_array_equal(again(talk, [WIDE]).pixels, p(talk, [WIDE]).pixels)


@pytest.mark.parametrize('side', ['left', 'right'])
def test_pad_keeps_every_row_and_its_tiles(make, side):
  p = make()
  rows = [p(ask('a'), [WIDE]), p(ask('text alone')), p([*ask('c?'), {'role': 'assistant', 'content': 'd'}], [SQUARE])]
  batch = pad(rows, [32, 64, 128], [2, 4, 8], pad_id=p.pad_id, side=side)
  assert batch.tokens.shape == batch.positions.shape == batch.mask.shape == (3, 64)
  assert batch.pixels.shape == (4, 16, 16, 3) and batch.tiles.tolist() == [3, 0, 1]
  for r, row in enumerate(rows):
    real = batch.positions[r] >= 0
    np.testing.assert_array_equal(batch.tokens[r][real], row.tokens)
    np.testing.assert_array_equal(batch.mask[r][real], row.mask)
    np.testing.assert_array_equal(batch.positions[r][real], np.arange(len(row.tokens)))
    assert (batch.tokens[r][~real] == p.pad_id).all() and real[-1 if side == 'left' else 0]
  np.testing.assert_array_equal(batch.pixels[:3], rows[0].pixels)
  np.testing.assert_array_equal(batch.pixels[3:], rows[2].pixels)
  with pytest.raises(ValueError, match=r'tokens fit no bucket; the buckets are \[8, 16\]'):
    pad(rows, [8, 16], [8], pad_id=0)
  with pytest.raises(ValueError, match='4 tiles fit no bucket'):
    pad(rows, [64], [2], pad_id=0)


def test_augmentation_is_seeded(make):
  noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 32, 3), np.uint8))
  draw = lambda seed: make()(ask('a'), [noise], augment=np.random.default_rng(seed)).pixels
  np.testing.assert_array_equal(draw(1), draw(1))
  assert (draw(1) != make()(ask('a'), [noise]).pixels).any()
