"""JSONL files to training examples, and what is said about bad ones."""

import json

import numpy as np
import pytest
from PIL import Image

from core.conversations.rows import Rows
from internvl.data import packing
from internvl.data.dataset import Examples, is_blank
from internvl.inputs.processor import Processor
from internvl.inputs.processor_config import ProcessorConfig
from internvl.training.configs import Config

TINY = ProcessorConfig(image_size=16, tokens_per_tile=4, max_tiles=4, system='', max_length=300, video_frames=2)
GOOD = {
  'id': 0,
  'image': 'a.png',
  'conversations': [{'from': 'human', 'value': '<image>\nWhat?'}, {'from': 'gpt', 'value': '13'}],
}


@pytest.fixture
def write(tmp_path):
  noise = np.random.default_rng(0).integers(0, 256, (16, 32, 3), np.uint8)
  Image.fromarray(noise).save(tmp_path / 'a.png')
  (tmp_path / 'clip').mkdir()
  for k in range(4):
    Image.new('RGB', (8, 8), (k, k, k)).save(tmp_path / 'clip' / f'{k}.png')

  def write(*rows):
    path = tmp_path / 'rows.jsonl'
    path.write_text('\n'.join(r if isinstance(r, str) else json.dumps(r) for r in rows) + '\n')
    return path

  return write


def test_both_formats_make_the_same_example(write, byte_level):
  openai = {
    'image': ['a.png'],
    'messages': [{'role': 'user', 'content': '<image>\nWhat?'}, {'role': 'assistant', 'content': '13'}],
  }
  parts = {
    'messages': [
      {'role': 'user', 'content': [{'type': 'image', 'image': 'a.png'}, {'type': 'text', 'text': 'What?'}]},
      {'role': 'assistant', 'content': '13'},
    ]
  }
  examples = Examples(Rows(write(GOOD, '', openai, parts)), Processor(TINY, byte_level))
  assert len(examples) == 3
  for i in range(3):
    x = examples[i]
    assert byte_level.decode(x.tokens[x.mask]) == '13<|im_end|>' and x.tiles.tolist() == [3]
    np.testing.assert_array_equal(x.tokens, examples[0].tokens)
    np.testing.assert_array_equal(x.pixels, examples[0].pixels)
  few = Examples(examples.rows, examples.processor, max_tiles=1)
  assert few[0].tiles.tolist() == [1]


def test_videos_systems_and_text(write, byte_level):
  video = {
    'video': 'clip',
    'conversations': [
      {'from': 'system', 'value': 'Be brief.'},
      {'from': 'human', 'value': '<video>\nWhat?'},
      {'from': 'gpt', 'value': 'grey'},
    ],
  }
  text = {'conversations': [{'from': 'human', 'value': 'hi'}, {'from': 'gpt', 'value': 'hello'}]}
  examples = Examples(Rows(write(video, text)), Processor(TINY, byte_level))
  assert examples[0].tiles.tolist() == [1, 1] and examples[1].pixels.shape[0] == 0
  assert byte_level.decode(examples[0].tokens).startswith('<|im_start|>system\nBe brief.')


def test_parquet_rows_equal_those_of_json(write, byte_level, tmp_path):
  import pyarrow as pa
  import pyarrow.parquet as pq

  text = {'conversations': [{'from': 'human', 'value': 'hi'}, {'from': 'gpt', 'value': 'hello'}]}
  rows = Rows(write(GOOD, text))
  pq.write_table(pa.Table.from_pylist([GOOD, text, GOOD | {'image': None}]), tmp_path / 'rows.parquet')
  parquet = Rows(tmp_path / 'rows.parquet')
  assert [parquet[0], parquet[1]] == [rows[0], rows[1]]
  with pytest.raises(ValueError, match=r'rows\.parquet row 2: .*1 <image> marks, but 0'):
    parquet[2]


def test_augmentation_depends_on_seed_and_row_alone(write, byte_level):
  rows, processor = Rows(write(GOOD, GOOD)), Processor(TINY, byte_level)
  augmented = [Examples(rows, processor, seed=s, augment=True)[i].pixels for s, i in ((1, 0), (1, 0), (1, 1))]
  np.testing.assert_array_equal(augmented[0], augmented[1])
  assert (augmented[0] != augmented[2]).any()


def turns(*pairs):
  return {'conversations': [{'from': f, 'value': v} for f, v in pairs]}


@pytest.mark.parametrize(
  'row, why',
  [
    ('{"cut', 'not JSON'),
    ('[1]', 'list, expected an object'),
    ({}, 'either'),
    ({'conversations': []}, 'non-empty list'),
    (turns(('human', 'a')), 'must end with a turn of the gpt'),
    (turns(('robot', 'a'), ('gpt', 'b')), r'turn 0 must be .*robot'),
    ({'messages': [{'role': 'user', 'content': 'a'}]}, 'turn of the assistant'),
    (GOOD | {'image': 3}, '"image" must be a path'),
    (GOOD | {'image': ['a.png', 'a.png']}, '1 <image> marks, but 2'),
    (turns(('human', '<image>'), ('gpt', 'b')), '1 <image> marks, but 0'),
  ],
)
def test_bad_rows_are_reported_with_file_and_line(write, row, why):
  rows = Rows(write(GOOD, '', row))
  with pytest.raises(ValueError, match=rf'rows\.jsonl:3: .*({why})'):
    rows[1]
  with pytest.raises(ValueError, match=r'1 of 2 rows cannot be used:\n.*rows\.jsonl:3'):
    rows.check()


def test_missing_and_broken_media_are_named(write, byte_level, tmp_path):
  rows = Rows(write(GOOD | {'image': 'gone.png'}, GOOD | {'image': 'broken.png'}))
  (tmp_path / 'broken.png').write_bytes(b'no')
  with pytest.raises(FileNotFoundError, match=r'rows\.jsonl:1: names .*gone\.png'):
    rows[0]
  with pytest.raises(ValueError, match=r'rows\.jsonl:2: .*broken\.png: not a readable image'):
    Examples(rows, Processor(TINY, byte_level))[1]
  with pytest.raises(FileNotFoundError, match=r'none\.jsonl'):
    Rows(tmp_path / 'none.jsonl')
  (tmp_path / 'empty.jsonl').write_text('\n\n')
  with pytest.raises(ValueError, match='no records'):
    Rows(tmp_path / 'empty.jsonl')


SURROGATE = {'conversations': [{'from': 'human', 'value': 'a\ud800'}, {'from': 'gpt', 'value': 'b'}]}


def test_bad_rows_are_skipped_and_counted_if_asked(write, byte_level):
  """A broken row costs one token of padding; the examples around it are what they are without it."""
  processor = Processor(TINY, byte_level)
  rows = Rows(write(GOOD, '{"cut', GOOD | {'image': 'gone.png'}, SURROGATE, GOOD))
  refusing, skipping = Examples(rows, processor), Examples(rows, processor, bad_rows='skip')
  for i in (1, 2, 3):
    with pytest.raises((ValueError, FileNotFoundError), match=rf'rows\.jsonl:{i + 1}'):
      refusing[i]
  assert [is_blank(skipping[i]) for i in range(5)] == [False, True, True, True, False]
  c = Config(batch=1, length=400, tiles=12, open_rows=1, bad_rows='skip', dtype='float32')
  batch = next(packing.batches([skipping], c))
  counts = packing.counts(batch)
  assert 0 < counts['bad_rows'] < counts['samples']
  assert batch['weights'][batch[packing.BAD] > 0].sum() == 0


def test_a_run_with_nothing_to_learn_ends(write, byte_level):
  long = GOOD | {'image': None, 'conversations': [{'from': 'human', 'value': 'a' * 200}, {'from': 'gpt', 'value': 'b'}]}
  examples = Examples(Rows(write(long)), Processor(TINY, byte_level))
  c = Config(batch=1, length=64, tiles=1, open_rows=1, dtype='float32')
  rows = next(packing.batches([examples], c))
  metrics = packing.counts(rows) | {'weight': rows['weights'].sum()}
  lessons = packing.Lessons()
  for _ in range(10):
    lessons.launched(metrics)
  with pytest.raises(ValueError, match=r'10 batches in a row have nothing to learn: \d+ samples were cut'):
    lessons.finish()  # of the last step of a run, no later one says so


def test_a_batch_is_judged_whole_whatever_one_process_has_of_it():
  """The metrics are those of the whole batch, so one process without a lesson does not end alone."""
  empty, some = ({'weight': weight, 'shortened': 1, 'bad_rows': 0} for weight in (0.0, 0.5))
  lessons = packing.Lessons()
  for metrics in [*[empty] * 9, some, *[empty] * 9, some]:
    lessons.launched(metrics)
  lessons.finish()
  assert lessons.empty == 0
