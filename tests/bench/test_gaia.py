"""GAIA: the published rules of equality, files, and agents on several questions at a time."""

import json

import pytest

from agents.planner.planner import Agent
from bench import agent
from bench.search import gaia
from core.serving.client import Reply


@pytest.mark.parametrize(
  ('answer', 'gold', 'right'),
  [
    ('17', '17', True),
    ('17.0', '17', True),
    ('$1,700', '1700', True),
    ('17%', '17', True),
    ('seventeen', '17', False),
    ('17 apples', '17', False),
    ('the Louvre', 'The Louvre!', True),
    ('Saint-Petersburg', 'saint petersburg', True),
    ('a, b', 'a,b', True),
    ('a; b', 'a, b', True),
    ('b, a', 'a, b', False),
    ('a, b, c', 'a, b', False),
    ('1, x.', '1.0, x.', True),
    ('1, x', '1.0, x.', False),  # a member of a list keeps its punctuation
    ('12,5', '12.5', False),
  ],
)
def test_answers_are_right_by_the_form_of_the_gold(answer, gold, right):
  assert gaia.right_answer(answer, gold) is right


def rows(tmp_path):
  (tmp_path / 'table.csv').write_text('a,b')
  listed = [
    {'task_id': 'x', 'Question': 'How many?', 'Final answer': '3', 'Level': 1, 'file_name': 'table.csv'},
    {'task_id': 'y', 'Question': 'Who?', 'Final answer': 'Ada', 'Level': 2, 'file_name': ''},
    {'task_id': 'z', 'Question': 'Lost?', 'Final answer': '1', 'Level': 2, 'file_name': 'gone.csv'},
  ]
  path = tmp_path / 'metadata.jsonl'
  path.write_text('\n'.join(map(json.dumps, listed)))
  return path


class Model:
  name = 'stand-in'

  def chat(self, messages, sampling, seed, tools=(), *, seconds=float('inf')):
    asked = messages[1]['content']
    return Reply('I know.\n\nFINAL ANSWER: 3' if 'Attached file: table.csv' in asked else 'FINAL ANSWER: Bob')


@pytest.mark.parametrize('parallel', [1, 4])
def test_an_agent_gets_the_files_and_is_scored_by_level(tmp_path, parallel):
  task = gaia.gaia(plain=True)
  data = task.load(str(rows(tmp_path)))
  assert [problem.reason for problem in data.skipped] == ['missing file gone.csv']
  options = {'iterations': 1, 'learn': False, 'seed': 0, 'resamples': 100, 'parallel': parallel}
  result = agent.measure(Agent(Model(), Model()), data, tmp_path / 'out', task=task, **options)
  assert result['passes'][0]['sources'] == {'1': {'accuracy': 1.0}, '2': {'accuracy': 0.0}}
