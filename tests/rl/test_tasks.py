"""Queries from files."""

import json
import pathlib

import pytest

from core.toy import digits, pairs
from rl.rewards import Scorer
from rl.rewards.verify import last_number
from rl.tasks import TASKS, from_files, questions, task_of


@pytest.fixture
def files(tmp_path):
  for split, n in (('train', 5), ('heldout', 3)):
    digits.export(tmp_path, split, 0, n)
  return [str(tmp_path / 'train.jsonl')], [str(tmp_path / 'heldout.jsonl')]


def test_an_epoch_of_training_rows_has_each_once_and_the_next_another_order(files):
  task = from_files(*files, 'exact_match')
  epochs = [[task.query('train', 7, i).images[0] for i in range(e * 5, e * 5 + 5)] for e in range(4)]
  assert all(len(set(e)) == 5 for e in epochs) and len({tuple(e) for e in epochs}) > 1
  assert task.heldout == 3
  shown = [task.query('heldout', 7, i) for i in range(3)]
  assert [q.answer for q in shown] == [digits.example('heldout', 0, i).answer for i in range(3)]
  assert shown[0].messages[-1]['role'] == 'user' and shown[0].solution == shown[0].answer


def test_the_answer_column_is_what_the_reward_compares_with(files):
  path = files[0][0]
  rows = [json.loads(line) for line in pathlib.Path(path).read_text(encoding='utf-8').splitlines()]
  rows[0] |= {'answer': '42'}
  rows[0]['conversations'][-1]['value'] = r'<think>6 * 7</think>\boxed{42}'
  with open(path, 'w', encoding='utf-8') as f:
    f.write(json.dumps(rows[0]) + '\n')
  task = from_files(*files, 'boxed_and_format')
  query = task.query('train', 0, 0)
  with Scorer(task.rewards, query) as scorer:
    scored = scorer([query], [[query.solution, r'\boxed{41}']])
  assert query.answer == '42' and scored.totals.tolist() == [[1.0, 0.0]] and scored.right.tolist() == [[1, 0]]


def test_a_video_is_refused(files):
  path = files[0][0]
  with open(path, 'w', encoding='utf-8') as f:
    f.write(
      json.dumps(
        {
          'video': 'train',
          'conversations': [{'from': 'human', 'value': '<video>\nWhat?'}, {'from': 'gpt', 'value': 'x'}],
        }
      )
      + '\n'
    )
  with pytest.raises(ValueError, match='video'):
    from_files(*files, 'boxed').query('train', 0, 0)


def test_questions_are_a_task_of_their_own():
  task = task_of(['a', 'b', 'c'])
  asked = lambda split, n: [task.query(split, 0, i).messages[0]['content'] for i in range(n)]
  assert sorted(asked('train', 3)) == ['a', 'b', 'c'] == asked('heldout', 3) and task.heldout == 3
  assert questions(['a'], ['x', 'y']).query('heldout', 5, 1).messages == [{'role': 'user', 'content': 'y'}]
  assert task_of('digits') is TASKS['digits']
  with pytest.raises(ValueError, match="task='chess': expected one of digits, expressions"):
    task_of('chess')
  with pytest.raises(ValueError, match='no questions'):
    task_of([])


def test_held_out_pairs_are_never_trained_in_either_order():
  train, heldout = set(pairs.pairs('train')), set(pairs.pairs('heldout'))
  assert len(heldout) >= 400 and len(train) + len(heldout) == pairs.LARGEST**2
  assert not {frozenset(pair) for pair in train} & {frozenset(pair) for pair in heldout}
  assert {pairs.example('heldout', 3, i).terms for i in range(len(heldout))} == heldout
  query = TASKS['pairs'].query('train', 1, 5)
  a, b = (int(word) for word in query.messages[0]['content'].replace('?', '').split() if word.isdecimal())
  assert query.answer == str(a + b) and TASKS['pairs'].heldout == len(heldout)


@pytest.mark.parametrize(
  'said, want',
  [('74', 1), ('42 + 32 = 74', 1), ('74 is 42 + 32', 0), ('', 0), ('about seventy', 0), ('-74', 0), ('174', 0)],
)
def test_the_last_number_counts(said, want):
  assert last_number(said, '74') == want
