"""InternVL's meta.json: what it names, how often, and what is said about a bad one."""

import json
import os

import numpy as np
import pytest

from core.conversations import mixture
from core.conversations.rows import Rows
from internvl import train as program
from internvl.data.dataset import Examples
from internvl.training.configs import CONFIGS, Config
from tests.internvl.tiny import processor

ROW = {'conversations': [{'from': 'human', 'value': 'Hi'}, {'from': 'gpt', 'value': '0'}]}


@pytest.fixture
def folder(tmp_path):
  """MMPR/annotations/{a, b}.jsonl of 10 and 4 rows, and MMPR/images."""
  for name in ('MMPR/annotations', 'MMPR/images'):
    (tmp_path / name).mkdir(parents=True)
  for name, n in (('a', 10), ('b', 4)):
    turns = lambda i: [ROW['conversations'][0], {'from': 'gpt', 'value': f'{i}'}]
    (tmp_path / f'MMPR/annotations/{name}.jsonl').write_text(
      ''.join(json.dumps({'conversations': turns(i)}) + '\n' for i in range(n))
    )
  return tmp_path


def meta(folder, **entries):
  path = folder / 'MMPR/meta.json'
  path.write_text(json.dumps(entries, indent=2))
  return path


def entry(name, **more):
  return {'root': 'MMPR/images', 'annotation': f'MMPR/annotations/{name}.jsonl', **more}


def test_paths_are_found_from_the_working_directory_and_from_the_folder_of_the_file(folder, monkeypatch):
  path = meta(folder, a=entry('a'))
  for where in (folder, folder / 'MMPR', '/'):
    monkeypatch.chdir(where)
    (part,) = mixture.read(os.path.relpath(path))
    assert len(part.open()) == 10 and os.path.isdir(part.root) and part.repeat == 1


def test_repetition_below_one_draws_rows_once_and_above_one_weighs(folder):
  path = meta(folder, a=entry('a', repeat_time=0.55, length=10), b=entry('b', repeat_time=2.5, data_augment=True))
  a, b = mixture.parts([str(path)])
  rows = a.open()
  said = [rows[i][0][-1]['content'] for i in range(len(rows))]
  assert len(said) == len(set(said)) == 5 and said == sorted(said, key=int)
  assert said == [a.open()[i][0][-1]['content'] for i in range(5)]
  assert len({tuple(a.open(seed=s).records.numbers) for s in range(5)}) > 1
  assert rows.where(4) == f'{a.path}:{int(said[4]) + 1}'  # the place in the file, not in what was drawn
  assert (a.passes(), b.passes(), len(b.open()), b.augment) == (1.0, 2.5, 4, True)
  examples = [Examples(part.open(), processor()) for part in (a, b)]
  config = Config(data=(str(path),))
  assert program.shares(config, [a, b], examples) == [5, 10]
  few = Rows(a.path, share=1e-9)
  assert len(few) == 1


def test_a_limit_of_tiles_is_the_files_own(folder):
  (part,) = mixture.read(meta(folder, a=entry('a', max_dynamic_patch=3)))
  assert part.max_tiles == 3
  (plain,) = mixture.parts([part.path])
  assert plain.max_tiles is None and plain.root is None and plain.passes() == 1


@pytest.mark.parametrize(
  'change, says',
  [
    ({'repeat_time': 0}, r'meta.json:7: \'b\': "repeat_time" must be a positive number, not 0'),
    ({'repeat_time': True}, '"repeat_time"'),
    ({'repeat_time': float('inf')}, '"repeat_time"'),
    ({'data_augment': 1}, '"data_augment" must be true or false, not 1'),
    ({'root': 5}, '"root" must be the path'),
    ({'max_dynamic_patch': 2.5}, '"max_dynamic_patch"'),
    ({'annotation': None}, '"annotation" must be the path'),
    ({'annotation': ''}, 'has no "annotation"'),
    ({'annotation': 'gone.jsonl'}, '"annotation" is \'gone.jsonl\', but none of these exists: .*MMPR/gone.jsonl'),
    ({'root': 's3://bucket'}, '"root" is \'s3://bucket\''),
  ],
)
def test_a_bad_entry_is_named_by_line_and_field(folder, change, says):
  path = meta(folder, a=entry('a'), b=entry('b') | change)
  path.write_text(path.read_text().replace('"a": {', '\n"a": {'))
  with pytest.raises((ValueError, FileNotFoundError), match=says):
    mixture.read(path)


@pytest.mark.parametrize(
  'text, says',
  [
    ('{"a": {},\n}', r'meta.json:2: not JSON'),
    ('[]', 'one or more named files'),
    ('{}', 'one or more'),
    ('{"a": 3}', r'meta.json:1: \'a\' must be an object'),
    ('{"a": {}, "a": {}}', "'a' occurs twice in one object"),
    ('{"a": {"annotation": "a.jsonl"}}', 'has no "root"'),
  ],
)
def test_a_file_that_is_no_mixture_is_refused(folder, text, says):
  path = folder / 'MMPR/meta.json'
  path.write_text(text)
  with pytest.raises(ValueError, match=says):
    mixture.read(path)


def test_media_may_have_no_root(folder):
  (part,) = mixture.read(meta(folder, a=entry('a') | {'root': None}))
  assert part.root is None and len(part.open()) == 10


def test_shares_and_a_mixture_exclude_each_other(folder):
  with pytest.raises(ValueError, match='says them itself'):
    Config(data=('meta.json',), weights=(1.0,))
  assert program.shares(CONFIGS['tiny'], [None, None], []) == [1.0, 1.0]
  np.testing.assert_array_equal(program.shares(Config(data=('a', 'b'), weights=(1.0, 3.0)), [None] * 2, []), [1, 3])
