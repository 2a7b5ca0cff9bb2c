"""Sources that say where a file is broken; streams that lose, repeat and confuse nothing."""

import itertools
import json
import pickle

import grain
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from array_record.python.array_record_module import ArrayRecordWriter
from hypothesis import given, settings
from hypothesis import strategies as st

from core.training import data

ROWS = [{'id': i, 'text': 'ß' * i} for i in range(7)]


def write(path, rows=ROWS):
  if path.suffix == '.jsonl':
    path.write_text(''.join(json.dumps(r, ensure_ascii=False) + '\n' for r in rows), encoding='utf-8')
  elif path.suffix == '.parquet':
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=3)
  else:
    writer = ArrayRecordWriter(str(path), 'group_size:2')
    for row in rows:
      writer.write(json.dumps(row).encode())
    writer.close()
  return path


@pytest.mark.parametrize('suffix', ['jsonl', 'parquet', 'array_record'])
def test_sources_give_any_record_in_any_order(tmp_path, suffix):
  records = data.source(write(tmp_path / f'a.{suffix}'))
  assert len(records) == 7
  assert [records[i] for i in (6, 0, 3, 3)] == [ROWS[i] for i in (6, 0, 3, 3)]
  assert pickle.loads(pickle.dumps(records))[5] == ROWS[5]


@pytest.mark.parametrize('suffix', ['jsonl', 'parquet', 'array_record'])
def test_a_file_cut_off_is_named_at_once(tmp_path, suffix):
  path = write(tmp_path / f'a.{suffix}')
  path.write_bytes(path.read_bytes()[:-9])
  with pytest.raises(data.DataError, match=rf'a\.{suffix}.*(the last line is cut off|not (a )?whole)'):
    data.source(path)


def test_line_ends_and_byte_order_marks_are_read(tmp_path):
  path = tmp_path / 'a.jsonl'
  path.write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n\r\n{"a": "\xc3\x9f"}\r\n\n{"a": 3}')
  assert [data.JsonLines(path)[i]['a'] for i in range(3)] == [1, 'ß', 3]


@pytest.mark.parametrize(
  'line, says',
  [
    (b'{"a": 1', 'not JSON'),
    (b'[1]', 'list, expected an object'),
    (b'{"a": "\xff"}', 'not JSON'),
    (b'\xef\xbb\xbf{"a": 1}', 'not JSON'),
    (b'{"a": 1} {"a": 2}', 'not JSON'),
    (b'\x00', 'not JSON'),
  ],
)
def test_a_bad_line_is_named_with_its_number(tmp_path, line, says):
  path = tmp_path / 'a.jsonl'
  path.write_bytes(b'{"a": 0}\n\n' + line + b'\n{"a": 2}\n')
  records = data.JsonLines(path)
  assert records[0] == {'a': 0} and records[2] == {'a': 2}
  with pytest.raises(data.DataError, match=rf'a\.jsonl:3: {says}'):
    records[1]


def test_empty_missing_and_unknown_files(tmp_path):
  (tmp_path / 'a.jsonl').write_text('\n\n')
  with pytest.raises(data.DataError, match=r'a\.jsonl: no records'):
    data.source(tmp_path / 'a.jsonl')
  for suffix in ('jsonl', 'parquet', 'array_record'):
    with pytest.raises(FileNotFoundError, match=rf'none\.{suffix}'):
      data.source(tmp_path / f'none.{suffix}')
  with pytest.raises(ValueError, match=r"suffix '\.csv', expected one of \.jsonl"):
    data.source('a.csv')


def test_mixing_keeps_the_weights_and_every_record():
  parts = {'a': ([f'a{i}' for i in range(10)], 3.0), 'b': ([f'b{i}' for i in range(10)], 1.0)}
  draw = lambda seed: list(data.mix(parts, seed=seed)[:80])
  drawn = draw(1)
  assert drawn == draw(1) != draw(2)
  a = [x for x in drawn if x[0] == 'a']
  assert len(a) == 60
  epochs = [a[i : i + 10] for i in range(0, 60, 10)]
  assert all(len(set(epoch)) == 10 for epoch in epochs)  # each record once
  assert epochs[0] != epochs[1] != epochs[2]  # in another order
  with pytest.raises(ValueError, match="weight of 'a' is 0"):
    data.mix({'a': ([1], 0)}, seed=0)


@pytest.mark.parametrize('many', [2, 3])
def test_process_shares_are_disjoint_and_whole(many):
  whole = list(data.mix({'a': (range(12), 1.0)}, seed=5, epochs=2))
  shares = [list(data.mix({'a': (range(12), 1.0)}, seed=5, epochs=2, shard=(i, many))) for i in range(many)]
  assert [x for group in zip(*shares) for x in group] == whole
  assert sorted(whole) == sorted([*range(12)] * 2)


def examples(sizes):
  """Example i: all its tokens and tiles are i + 1."""
  return [
    {
      'tokens': np.full(n, i + 1),
      'labels': np.full(n, i + 1),
      'dropped': 0,
      'tiles': np.full((t, 2), i + 1, np.float32),
    }
    for i, (n, t) in enumerate(sizes)
  ]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 8), st.integers(0, 3)), min_size=1, max_size=20), st.integers(1, 4))
def test_packing_keeps_examples_whole_within_both_budgets(sizes, rows):
  stream = grain.MapDataset.source(examples(sizes)).to_iter_dataset()
  seen = {}
  for row in data.pack(stream, {'tokens': 8, 'labels': 8, 'tiles': 3}, rows=rows):
    assert set(row) == {'tokens', 'labels', 'tiles', 'segments', 'positions', 'tiles_segments'}
    assert row['tokens'].shape == (8,) and row['tiles'].shape == (3, 2)
    np.testing.assert_array_equal(row['segments'] == 0, row['tokens'] == 0)
    for segment in range(1, row['segments'].max() + 1):
      here = row['segments'] == segment
      (example,) = set(row['tokens'][here])
      np.testing.assert_array_equal(row['positions'][here], np.arange(here.sum()))
      tiles = row['tiles'][row['tiles_segments'] == segment]
      assert (tiles == example).all() and example not in seen
      seen[int(example)] = (int(here.sum()), len(tiles))
  assert seen == {i + 1: size for i, size in enumerate(sizes)}


@pytest.mark.parametrize(
  'size, says',
  [
    ((9, 0), 'an example has 9 tokens: expected at most 8'),
    ((1, 4), 'an example has 4 tiles: expected at most 3'),
    ((0, 1), 'an example has no tokens'),
  ],
)
def test_an_example_that_cannot_be_packed_is_explained(size, says):
  stream = grain.MapDataset.source(examples([size])).to_iter_dataset()
  with pytest.raises(ValueError, match=says):
    next(iter(data.pack(stream, {'tokens': 8, 'tiles': 3}, rows=1)))


def stream(workers=0):
  sizes = np.random.default_rng(0).integers(1, 8, 50)
  items = examples([(int(n), int(n) % 3) for n in sizes])
  mixed = data.mix({'a': (items[:30], 1.0), 'b': (items[30:], 2.0)}, seed=3)
  packed = data.pack(mixed.to_iter_dataset(), {'tokens': 16, 'tiles': 6}, rows=4)
  return data.batches(packed, 2, workers=workers)


@pytest.mark.slow
@pytest.mark.parametrize('stop, workers', [(1, 0), (2, 0), (11, 0), (2, 1)])
def test_an_iterator_resumes_exactly_from_json(stop, workers):
  want = list(itertools.islice(stream(), stop + 6))
  before = stream(workers)
  for _ in range(stop):
    next(before)
  state = json.loads(json.dumps(before.get_state()))
  next(before)  # what came after the checkpoint is lost, as in a crash
  after = stream(workers)
  after.set_state(state)
  for expected in want[stop:]:
    got = next(after)
    assert got.keys() == expected.keys() and got['tokens'].shape == (2, 16)
    for name in got:
      np.testing.assert_array_equal(got[name], expected[name])


def test_a_short_last_batch_is_dropped():
  rows = grain.MapDataset.range(7).to_iter_dataset()
  assert [b.tolist() for b in data.batches(rows, 3)] == [[0, 1, 2], [3, 4, 5]]
