import json

import pytest

from bench import tasks
from bench.harness import runner
from bench.harness.task import Answer
from bench.report import summary

BASE = {
  'context': 'Let $B$ be a field. ',
  'question': 'Find $E$.',
  'symbol': '$B$, $\\mu$',
  'topic': 'Magnetism',
  'solution': 'SECRET WORKING',
  'answer_type': 'Expression',
}
ROWS = [
  BASE | {'id': 1, 'final_answer': ['\\mu B']},
  BASE | {'id': 2, 'final_answer': ['3.0'], 'answer_type': 'Numeric', 'context': None},
  BASE | {'id': 3, 'final_answer': []},
  BASE | {'id': 4, 'final_answer': ['x = 1'], 'answer_type': 'Essay'},
  BASE | {'id': '1', 'final_answer': ['y']},
  BASE | {'id': 5, 'final_answer': ['(a, b)'], 'answer_type': 'Tuple', 'topic': 'Others'},
]


@pytest.fixture
def path(tmp_path):
  (tmp_path / 'CMPhysBench.json').write_text(json.dumps(ROWS))
  return str(tmp_path / 'CMPhysBench.json')


def test_rows_are_accounted_for_and_the_solution_never_reaches_the_model(path):
  task = tasks.make('cmphysbench', [])
  data = task.load(path)
  assert [e.id for e in data.examples] == ['1', '2', '5'] and data.read == 6
  assert [p.reason for p in data.skipped] == [
    'empty_answer (Expression, Magnetism)',
    "answer_type is 'Essay'",
    'duplicate_id',
  ]
  system, user = task.prompt(data.examples[0])
  assert (system['role'], user['role']) == ('system', 'user')
  assert user['content'].startswith('Let $B$ be a field. Find $E$.\n') and user['content'].endswith('$B$, $\\mu$')
  assert 'SECRET' not in json.dumps([task.prompt(e) for e in data.examples])
  with pytest.raises(ValueError, match='tiers'):
    tasks.make('cmphysbench', ['tiers=2019'])


def test_seed_accuracy_and_pass_at_k_by_topic_and_type(path):
  task = tasks.make('cmphysbench', ['processes=1'])
  data = task.load(path)
  texts = {
    '1': ['<think>\\boxed{0}</think> \\boxed{B \\mu}', 'no box'],
    '2': ['\\boxed{3.00}', '\\boxed{7}'],
    '5': ['\\boxed{(a, c)}', '\\boxed{' + '{' * 300_000],
  }
  items = runner.score(task, data.examples, {k: [Answer(t) for t in ts] for k, ts in texts.items()})
  points = [[o.scores['seed'][0] for o in item.outcomes] for item in items]
  assert points[0] == [100, 0] and points[1] == [100, 0]
  assert 0 < points[2][0] < 100 and points[2][1] == 0
  assert [o.status for o in items[0].outcomes] == ['ok', 'no_answer']
  found = summary.summarise(task, items, resamples=200)
  assert found['metrics']['accuracy']['value'] == pytest.approx(1 / 3)
  assert found['metrics']['pass@2']['value'] == pytest.approx(2 / 3)
  assert found['groups']['topic']['Magnetism']['accuracy']['value'] == 1 / 2
  assert set(found['groups']['answer type']) == {'Expression', 'Numeric', 'Tuple'}


@pytest.mark.parametrize(
  ('text', 'finish', 'points'),
  [
    ('<think>\\boxed{B}</think>\\boxed{\\mu B}', 'stop', 100),
    ('The final answer is: $\\mu B$', 'stop', 100),
    ('<answer>\\mu B</answer>', 'stop', 100),
    ('The final answer is: $\\mu B$', 'length', 0),
    ('so E is proportional to B', 'stop', 0),
  ],
)
def test_the_marked_answer_counts_and_a_cut_off_one_needs_its_box(path, text, finish, points):
  task = tasks.make('cmphysbench', ['processes=1'])
  example = task.load(path).examples[0]
  (outcome,) = task.score([(example, Answer(text, finish))])
  assert outcome.scores['seed'][0] == points


def test_a_reference_that_cannot_be_read_is_named_before_any_model_is_asked(tmp_path):
  path = tmp_path / 'rows.json'
  path.write_text(json.dumps([ROWS[0] | {'id': 'x', 'final_answer': ['\\frac{1']}]))
  data = tasks.make('cmphysbench', []).load(str(path))
  assert not data.examples and data.skipped[0].reason.startswith('unreadable reference')
  assert len(tasks.make('cmphysbench', ['compat=true']).load(str(path)).examples) == 1  # the published rules score it
