import json

import pyarrow as pa
import pyarrow.parquet
import pytest

from bench.harness import rows
from bench.harness.store import Log, dump, write_text
from bench.harness.task import Example


def make(where, row):
  return Example(rows.row_id(row, where), {'text': rows.need(row, 'text')})


def test_every_kind_of_file_gives_the_same_rows(tmp_path):
  table = [{'id': '1', 'text': 'äé,"x"\ny'}, {'id': '2', 'text': 'b'}]
  (tmp_path / 'a.json').write_text(json.dumps(table))
  (tmp_path / 'b.json').write_text(json.dumps({'data': table}))
  (tmp_path / 'c.json').write_text(json.dumps({'1': {'text': table[0]['text']}, '2': {'text': 'b'}}))
  (tmp_path / 'a.jsonl').write_text('\n'.join(map(json.dumps, table)))
  (tmp_path / 'a.csv').write_text('id,text\n1,"äé,""x""\ny"\n2,b\n', encoding='utf-8')
  (tmp_path / 'a.tsv').write_text('id\ttext\n1\t"äé,""x""\ny"\n2\tb\n', encoding='utf-8')
  pyarrow.parquet.write_table(pa.Table.from_pylist(table), tmp_path / 'a.parquet')
  (tmp_path / 'saved' / 'train').mkdir(parents=True)
  whole = pa.Table.from_pylist(table)
  with pa.ipc.new_stream(str(tmp_path / 'saved/train/data-00000-of-00001.arrow'), whole.schema) as writer:
    writer.write_table(whole)
  for name in ('a.json', 'b.json', 'c.json', 'a.jsonl', 'a.csv', 'a.tsv', 'a.parquet', 'saved'):
    data = rows.load_examples(str(tmp_path / name), make)
    assert [(e.id, e.fields['text']) for e in data.examples] == [('1', table[0]['text']), ('2', 'b')], name
    assert (data.read, data.skipped, data.repaired) == (2, (), ())
    assert all(len(value) == 64 for value in data.files.values())


def test_bad_rows_are_reported_and_cost_no_others(tmp_path):
  path = tmp_path / 'bad.jsonl'
  path.write_bytes(
    b'\xef\xbb\xbf{"id": 1, "text": "bom and crlf"}\r\n\r\n'
    b'{"id": "1", "text": "same id"}\r\n'
    b'{"id": 2, "text": "caf\xe9"}\n'
    b'{"id": 3}\n[1]\nnot json\n'
    b'{"id": 4, "text": "nul \\u0000 surrogate \\ud800"}\n'
    b'{"id": 5, "text": 7}\n' + b'[' * 100_000 + b'\n'
    b'{"id": 6, "text": "' + b'x' * 1_000_000 + b'"}\n'
    b'{"id": 7, "te'
  )
  data = rows.load_examples(str(path), make)
  assert [e.id for e in data.examples] == ['1', '2', '4', '6']
  assert data.examples[1].fields['text'] == 'caf\ufffd'
  assert data.examples[2].fields['text'] == 'nul \0 surrogate ?'
  assert sorted(p.reason for p in data.skipped) == [
    'bad_json',
    'bad_json',
    'cut_last_line',
    'duplicate_id',
    'missing:text',
    'not_an_object',
    'wrong_type:text',
  ]
  assert [p.reason for p in data.repaired] == ['invalid_utf8']
  dump([dict(e.fields) for e in data.examples]).encode()


@pytest.mark.parametrize(
  ('name', 'text', 'message'),
  [
    ('x.txt', 'hello', 'unknown kind of file'),
    ('x.json', '{"a": ', 'not JSON'),
    ('x.json', '3', 'expected a JSON'),
    ('x.parquet', 'no', 'x.parquet: not Parquet'),
    ('x.arrow', 'no', 'x.arrow: not Arrow'),
  ],
)
def test_unusable_files_are_refused_by_name(tmp_path, name, text, message):
  (tmp_path / name).write_text(text)
  with pytest.raises(ValueError, match=message):
    rows.read_rows(str(tmp_path / name))
  with pytest.raises(FileNotFoundError, match='nowhere'):
    rows.read_rows(str(tmp_path / 'nowhere.json'))


def test_a_log_goes_on_after_a_cut_line_and_refuses_another_header(tmp_path):
  path = tmp_path / 'log.jsonl'
  with Log(path, {'model': 'm', 'seed': 1}) as log:
    log.append({'id': 'a'})
    log.append({'id': 'b'})
  whole = path.read_bytes()
  path.write_bytes(whole + b'{"id": "c')
  with Log(path, {'model': 'm', 'seed': 1}) as log:
    assert [e['id'] for e in log.entries] == ['a', 'b']
    log.append({'id': 'c'})
  assert path.read_bytes() == whole + b'{"id": "c"}\n'
  with pytest.raises(ValueError, match=r'seed=1, this run has 2'):
    Log(path, {'model': 'm', 'seed': 2})
  assert path.read_bytes() == whole + b'{"id": "c"}\n'


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
  write_text(tmp_path / 'deep' / 'a.txt', 'old')
  with pytest.raises(UnicodeEncodeError):
    write_text(tmp_path / 'deep' / 'a.txt', 'new \ud800')
  assert [p.name for p in (tmp_path / 'deep').iterdir()] == ['a.txt']
  assert (tmp_path / 'deep' / 'a.txt').read_text() == 'old'
