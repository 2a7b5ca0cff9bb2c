"""The case bank: durable, shared, editable, reproducible; and files of others."""

import json
import multiprocessing
import sqlite3

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.memory import CaseBank, HashEncoder, export_jsonl, import_jsonl
from agents.memory.cases import case_text
from agents.memory.index import Index, unit

PLAN = '{"plan": [{"id": 1, "description": "search"}]}'


class Counting(HashEncoder):
  """A hash encoder that counts the texts it was given."""

  def __init__(self):
    super().__init__(32)
    self.asked = 0

  def __call__(self, texts):
    self.asked += len(texts)
    return super().__call__(texts)


def filled(path=':memory:', **options):
  bank = CaseBank(path, **options)
  for i, task in enumerate(['capital of France', 'capital of Spain', 'height of Everest', 'Spain in the world cup']):
    bank.add(task, PLAN, i % 2, run='r')
  return bank


def test_search_is_cosine_with_ties_in_order_of_writing():
  bank = CaseBank(':memory:')
  texts = ['b a', 'x', 'a b', 'y', 'a c']
  for i, text in enumerate(texts):
    bank.add(text, '', 1, key=str(i))
  found = bank.search('A, b', 3)
  assert [f.case.task for f in found] == ['b a', 'a b', 'a c']
  vectors = HashEncoder()(['a b', *texts])
  np.testing.assert_allclose([f.score for f in found], [1, 1, vectors[0] @ vectors[5]], atol=1e-6)
  assert bank.search('a b', 0) == [] and CaseBank(':memory:').search('a', 4) == []


def test_a_scorer_ranks_the_nearest_by_question_and_plan():
  bank = filled()
  seen = []

  def scorer(query, cases):
    seen.append((query, cases))
    return np.arange(len(cases), dtype=float)

  found = bank.search('capital of Spain', 2, scorer=scorer, prefilter=3)
  near = [f.case for f in bank.search('capital of Spain', 3)]
  assert [f.case for f in found] == [near[2], near[1]] and [f.score for f in found] == [2, 1]
  np.testing.assert_allclose(seen[0][1], HashEncoder()([case_text(c) for c in near]))


def test_own_cases_and_quarantined_ones_are_left_out():
  bank = filled()
  key = bank.search('capital of France', 1)[0].case.key
  assert bank.search('capital of France', 1, exclude=key)[0].case.task == 'capital of Spain'
  bank.update(2, quarantined=True)
  assert [f.case.id for f in bank.search('Spain', 4)] == [4, 1, 3]
  bank.update(2, quarantined=False, task='Spain')
  assert bank.search('Spain', 1)[0].case.id == 2


def test_writing_again_replaces_and_text_is_encoded_once():
  encoder = Counting()
  bank = filled(encoder=encoder)
  bank.search('capital of France')
  asked = encoder.asked
  assert asked == 4  # the query is a text already known
  again = bank.add('capital of France', '{}', 1, run='r')
  assert (again.id, len(bank), again.plan, again.created) == (1, 4, '{}', bank.get(1).created)
  bank.search('capital of France')
  assert encoder.asked == asked
  assert bank.add('capital of France', '{}', 1, run='other').id > 4


@pytest.mark.parametrize(
  ('call', 'message'),
  [
    (lambda b: b.add('a', '', 2), 'reward 2'),
    (lambda b: b.add('a', '', float('nan')), 'reward nan'),
    (lambda b: b.add(' ', '', 1), 'expected some text'),
    (lambda b: b.add('a', '', '1'), "reward '1'"),
    (lambda b: b.update(9, reward=1), 'case 9'),
    (lambda b: b.delete(9), 'case 9'),
    (lambda b: b.get(9), 'case 9'),
    (lambda b: b.update(1, reward=-1), 'reward -1'),
  ],
)
def test_bad_writes_are_refused_and_change_nothing(call, message):
  bank = filled()
  before = bank.digest()
  with pytest.raises((ValueError, KeyError), match=message):
    call(bank)
  assert bank.digest() == before


def write_many(path, name, count):
  with CaseBank(path) as bank:
    for i in range(count):
      bank.add(f'task {name} {i}', PLAN, 1, run=name)


@pytest.mark.slow
def test_processes_share_one_file_and_see_each_other_s_writes(tmp_path):
  path = tmp_path / 'bank.sqlite'
  with CaseBank(path) as bank:
    assert bank.search('task') == []
    context = multiprocessing.get_context('spawn')
    writers = [context.Process(target=write_many, args=(str(path), name, 20)) for name in 'ab']
    for writer in writers:
      writer.start()
    for writer in writers:
      writer.join()
    assert [w.exitcode for w in writers] == [0, 0]
    assert len(bank.search('task', 100)) == 40
    bank.delete(bank.search('task a 7', 1)[0].case.id)
    assert 'task a 7' not in [f.case.task for f in bank.search('task a 7', 100)]
  with CaseBank(path) as again:
    assert len(again) == 39


def test_a_snapshot_reads_the_same_whatever_happens_to_the_bank(tmp_path):
  bank = filled(tmp_path / 'bank.sqlite')
  bank.add_uses('q', bank.cases()[:2], 1)
  before = bank.search('capital', 3)
  digest = bank.snapshot(tmp_path / 'copy.sqlite')
  bank.delete(1)
  assert bank.digest() != digest
  with CaseBank(tmp_path / 'copy.sqlite') as copy:
    assert copy.digest() == digest and copy.search('capital', 3) == before and len(copy.uses()) == 2
  with pytest.raises(FileExistsError):
    bank.snapshot(tmp_path / 'copy.sqlite')


def test_uses_go_with_their_case_and_never_include_a_task_s_own(tmp_path):
  bank = filled()
  own = bank.get(1)
  bank.add_uses(own.task, bank.cases()[:3], 1, run='x', selector='v1')
  assert [(u.case.id, u.reward, u.selector) for u in bank.uses()] == [(2, 1, 'v1'), (3, 1, 'v1')]
  bank.add_uses(own.task, bank.cases()[:3], 0, run='x', selector='v2')
  assert [(u.case.id, u.reward, u.selector) for u in bank.uses()] == [(2, 0, 'v2'), (3, 0, 'v2')]
  bank.delete(2)
  assert [u.case.id for u in bank.uses()] == [3]


def test_what_is_no_bank_is_refused(tmp_path):
  (tmp_path / 'x').write_bytes(b'not sqlite at all' * 100)
  with pytest.raises(ValueError, match='not a case bank'):
    CaseBank(tmp_path / 'x')


@pytest.mark.parametrize('form', ['plain', 'labelled'])
def test_export_and_import_give_the_same_bank(form, tmp_path):
  bank = filled()
  bank.add('naïve \ud800 \x00 task\n', 'free text', 1, key='k')
  export_jsonl(bank, tmp_path / 'a.jsonl', form=form)
  other = CaseBank(':memory:')
  for _ in range(2):  # twice is once
    assert import_jsonl(other, tmp_path / 'a.jsonl').skipped == ()
  assert other.digest() == bank.digest()


def test_lines_of_others_are_read_tolerantly_and_reported(tmp_path):
  lines = [
    json.dumps({'question': 'a', 'plan': PLAN, 'reward': 1}),
    '',
    'junk',
    '[1]',
    json.dumps({'case': 'b', 'plan': '', 'case_label': 'negative'}),
    json.dumps({'key words': 'c', 'value': 'do it'}),
    json.dumps({'question': 'd', 'reward': 'high'}),
    json.dumps({'case': 'e', 'plan': '', 'case_label': 'unknown'}),
    json.dumps({'question': 5, 'reward': 1}),
    json.dumps({'question': 'a', 'plan': {'plan': []}, 'reward': 0}),
    '{"question": "cut',
    '[' * 10**5,
  ]
  (tmp_path / 'b.jsonl').write_bytes(b'\xef\xbb\xbf' + '\r\n'.join(lines).encode())
  bank = CaseBank(':memory:')
  got = import_jsonl(bank, tmp_path / 'b.jsonl')
  assert (got.cases, got.repeats) == (4, 0) and [number for number, _ in got.skipped] == [3, 4, 7, 8, 9, 11, 12]
  assert [(c.task, c.reward, c.plan) for c in bank.cases()] == [
    ('a', 1, PLAN),
    ('b', 0, ''),
    ('c', 1, 'do it'),
    ('a', 0, '{"plan": []}'),
  ]


def test_repeated_cases_are_kept_and_counted(tmp_path):
  rows = [{'question': 'a', 'plan': PLAN, 'reward': reward} for reward in (1, 0, 1)]
  (tmp_path / 'b.jsonl').write_text('\n'.join(map(json.dumps, rows)))
  bank = CaseBank(':memory:')
  got = import_jsonl(bank, tmp_path / 'b.jsonl')
  assert (got.cases, got.repeats, len(bank)) == (3, 2, 3)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from('pd'), st.integers(0, 90), st.integers(0, 6)), max_size=200))
def test_the_index_equals_a_dictionary_searched_in_full(steps):
  index, held = Index(3), {}
  vectors = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
  for kind, key, which in steps:
    if kind == 'p' and (key in held or key > max(held, default=-1)):  # ids only grow
      index.put(key, vectors[which])
      held[key] = vectors[which]
    elif kind == 'd' and key in held:
      index.drop(key)
      del held[key]
  query = np.ones(3, np.float32)
  want = sorted(held, key=lambda i: (-float(unit(held[i]) @ unit(query)), i))
  got = index.ranked(query, lambda i: i % 5 != 0, 1000)
  assert len(index) == len(held)
  close = lambda i: round(float(unit(held[i]) @ unit(query)), 4)
  assert [close(i) for i, _ in got] == [close(i) for i in want if i % 5]


def test_a_write_is_in_the_file_before_add_returns(tmp_path):
  bank = filled(tmp_path / 'bank.sqlite')
  other = sqlite3.connect(tmp_path / 'bank.sqlite')
  assert other.execute('SELECT count(*) FROM cases').fetchone() == (4,)
  assert other.execute('PRAGMA journal_mode').fetchone() == ('wal',)
  bank.close()
