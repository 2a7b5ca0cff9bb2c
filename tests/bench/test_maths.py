import time

import pytest

from bench import maths
from bench.harness.task import Answer, Example, Item
from bench.report import summary
from rl.rewards import answers
from rl.rewards.guards.limited import Late, Limited
from tests.watchdog import ends, processor_seconds


@pytest.mark.parametrize(
  'spelling',
  [
    '73',
    '073',
    '73.0',
    ' $73$. ',
    r'\frac{146}{2}',
    r'\dfrac{146}2',
    '146/2',
    r'\text{73}',
    r'\textbf{(73)}',
    '+73',
    r'\left(73\right)',
    '73.',
  ],
)
def test_spellings_of_one_integer(spelling):
  assert answers.rational(spelling) == 73
  assert answers.canonical(spelling) == '73'


@pytest.mark.parametrize(
  'output',
  [
    r'\boxed{73\%}',
    r'\boxed{73 \%}',
    r'\boxed{73\text{ percent}}',
    r'\boxed{73 \text{ degrees}}',
    r'\boxed{73^{\circ}}.',
    r'\boxed{73}.',
    r'\(\boxed{73}\).',
    r'The answer is $73$.',
    'The answer is 73%.',
    r'Answer: \(73\).',
    r'\boxed{073}',
    r'\boxed{7\!3}',
    r'\boxed{73\,}',
    r'\boxed{n = 73}',
    '#### 73',
  ],
)
def test_spellings_of_an_answer_of_aime(output):
  wrong = output.replace('73', '75').replace(r'7\!3', r'7\!5')
  outcomes, _ = score(maths.aime(), '73', output, wrong)
  assert [outcome.scores['accuracy'][0] for outcome in outcomes] == [1, 0]


@pytest.mark.parametrize('found', ['1,234', '1{,}234', r'1,\!234', r'1\,234', r'1{,}\!234', '1 234', r'1\ 234'])
def test_separators_of_thousands(found):
  assert answers.compare('1234', found) == (True, 'ok')


@pytest.mark.parametrize(
  ('gold', 'found', 'want'),
  [
    ('73', r'73\%', True),
    (r'73\%', '0.73', True),
    ('0.73', '73%', True),
    ('73', '0.73', False),
    ('73', r'7.3\%', False),
  ],
)
def test_a_percentage_is_its_number_or_a_hundredth_of_it(gold, found, want):
  assert answers.compare(gold, found)[0] is want


@pytest.mark.parametrize(
  ('text', 'want'),
  [
    ('1,234', '1234'),
    ('1{,}234', '1234'),
    ('12,34', '12,34'),
    (r'-\frac12', '-1/2'),
    ('x+1.', 'x+1'),
    ('1/0', '1/0'),
    ('9' * 500, '9' * 500),
  ],
)
def test_canonical_forms(text, want):
  assert answers.canonical(text) == want


@pytest.mark.parametrize(
  ('text', 'finished', 'want'),
  [
    (r'\boxed{1} <think>\boxed{2}</think> \boxed{3}', True, '3'),
    (r'<think>\boxed{2}</think> so it is two', True, '2'),
    (r'\boxed{\frac{1}{\}2}} tail', True, r'\frac{1}{\}2}'),
    (r'\boxed{4} and \boxed{5', True, '4'),
    ('The answer is 7\nthanks. Answer: 8 \nbye', True, '8'),
    ('the total is 9', True, None),
    ('n = 9', True, 'n = 9'),
    (r'<think>\boxed{8}.</think>\(9\)', True, '9'),
    ('**9**', True, '9'),
    (r'9^\circ', True, r'9^\circ'),
    ('9 degrees', True, '9 degrees'),
    ('9. I hope it is correct.', True, '9'),
    ('9. Then add 1.', True, None),
    ('9 or 10', True, None),
    ('9\n10', True, None),
    ('No', True, None),
    ('9', False, None),
    ('', True, None),
    ('The answer is 7', False, None),
    (r'\boxed{7} and then', False, '7'),
  ],
)
def test_extraction(text, finished, want):
  assert answers.extract(text, finished=finished) == want


def test_the_last_number_counts_only_when_asked_for():
  assert answers.extract('first 3, then 1,024', last_number=True) == '1,024'


@pytest.mark.slow
def test_extraction_of_a_megabyte_is_fast():
  with processor_seconds(20):
    for text in (r'\boxed{' * 150_000, 'answer is ' * 100_000, '{' * 10**6, '<think>' * 150_000, '1,' * 500_000):
      answers.extract(text, last_number=True)


@pytest.fixture(scope='module')
def symbolic():
  with Limited(answers.symbolically_equal, 20) as worker:
    yield worker


@pytest.mark.parametrize(
  ('gold', 'answer', 'want'),
  [
    (r'\frac{\sqrt{2}}{2}', r'\frac{1}{\sqrt{2}}', True),
    (r'x^2+2x+1', r'(x+1)^2', True),
    (r'(1,2)', r'(2,1)', False),
    (r'\pi', '3.14', False),
    (r'1 < x < 2', r'(1,2)', True),
    (r'(1,2)', r'1 < x < 2', False),
    ('50\\%', '0.5', True),
    ('0.3333333', r'\frac{1}{3}', True),
    ('0.333', r'\frac{1}{3}', False),
  ],
)
def test_matches_math_verify(symbolic, gold, answer, want):
  assert symbolic(gold, answer) is want


def dawdle(seconds):
  time.sleep(seconds)
  return 'done'


def gobble(size):
  return len(bytes(size))


def fail():
  raise KeyError('inside')


@pytest.mark.slow
def test_a_late_or_greedy_call_is_killed_and_the_next_one_works():
  with ends(), Limited(dawdle, 1.0) as limited:
    with pytest.raises(Late):
      limited(600)
    assert limited(0.01) == 'done'
  with Limited(gobble, 20.0, memory=256 << 20) as limited:
    with pytest.raises(RuntimeError, match='MemoryError'):
      limited(1 << 30)
    assert limited(10) == 10
  with Limited(fail, 20.0) as limited, pytest.raises(RuntimeError, match="KeyError: 'inside'"):
    limited()


def score(task, gold, *texts, finish='stop', rewards=None):
  example = Example('p', {'problem': '?', 'answer': gold})
  given = [Answer(t, finish, r) for t, r in zip(texts, rewards or [None] * len(texts))]
  outcomes = list(task.score([(example, a) for a in given]))
  return outcomes, task.combine(example, given, outcomes)


def test_aime_counts_and_votes():
  box = lambda text: f'\\boxed{{{text}}}'
  outcomes, scores = score(maths.aime(), '73', box('073'), box('146/2'), box('5'), 'no', box('9' * 3000))
  assert [o.status for o in outcomes] == ['ok', 'ok', 'ok', 'no_answer', 'too_large']
  assert scores['accuracy'] == (0.4, 1.0)
  assert scores['pass@1'][0] == pytest.approx(0.4)
  assert scores['pass@5'] == (1.0, 1.0) and scores['maj@5'] == (1.0, 1.0)
  assert 'best@1' not in scores
  _, scores = score(maths.aime(), '73', box('73'), box('5'), rewards=[0.1, 0.9])
  assert scores['best@2'] == (0.0, 1.0)


def test_one_number_has_one_interval():
  task = maths.aime()
  items = []
  for number, right in enumerate((1, 3, 0, 2)):
    texts = ['\\boxed{73}'] * right + ['\\boxed{5}'] * (4 - right)
    example = Example(str(number), {'problem': '?', 'answer': '73'})
    given = [Answer(text, 'stop', None) for text in texts]
    outcomes = list(task.score([(example, answer) for answer in given]))
    items.append(Item(example, tuple(given), tuple(outcomes), task.combine(example, given, outcomes)))
  metrics = summary.summarise(task, items, resamples=500)['metrics']
  assert metrics['pass@1'] == metrics['maj@1'] == metrics['accuracy']
  assert metrics['pass@4']['value'] > metrics['pass@1']['value']


def test_a_cut_off_sample_counts_only_with_a_whole_box():
  outcomes, scores = score(maths.aime(), '7', r'\boxed{7} so', 'The answer is 7', finish='length')
  assert [o.status for o in outcomes] == ['ok', 'cut_off']
  assert scores['accuracy'] == (0.5, 1.0)


@pytest.mark.slow
def test_general_answers_fall_back_to_symbols_and_hostile_ones_end():
  texts = [
    r'\boxed{\frac{1}{\sqrt2}}',
    r'\boxed{0.7}',
    r'\boxed{9^{9^{9^{9^{9}}}}}',
    r'\boxed{10^{10^{10}}!}',
    r'\boxed{__import__("os").system("true")}',
  ]
  with ends():
    outcomes, _ = score(maths.maths(seconds=3), r'\frac{\sqrt2}{2}', *texts)
  assert [o.scores['accuracy'][0] for o in outcomes] == [1, 0, 0, 0, 0]


@pytest.mark.parametrize(
  ('row', 'right', 'wrong'),
  [
    ({'problem_idx': 3, 'problem': 'HMMT', 'answer': r'\frac{1}{2}', 'problem_type': ['Algebra']}, '0.5', '0.25'),
    ({'problem': 'BeyondAIME', 'answer': 1204}, '1{,}204', '1024'),
    ({'problem': 'OlymMATH', 'answer': r'3\sqrt{3}', 'subject': 'Geometry', 'unique_id': 'x'}, r'3\sqrt 3', r'\sqrt 3'),
  ],
)
def test_rows_of_newer_sets(row, right, wrong, tmp_path):
  import json

  path = tmp_path / 'rows.jsonl'
  path.write_text(json.dumps(row) + '\n')
  task = maths.maths()
  (example,) = task.load(str(path)).examples
  assert example.id == str(row.get('problem_idx', row.get('unique_id', 'rows.jsonl:1')))
  assert answers.compare(example.fields['answer'], right) == (True, 'ok')
  assert answers.compare(example.fields['answer'], wrong) == (False, 'ok')


def test_loading_every_common_layout(tmp_path):
  import json

  rows = [
    {'id': 1, 'problem': 'a', 'answer': 5},
    {'ID': '2024-I-1', 'Problem': 'b', 'Answer': '016'},
    {'prompt': [{'role': 'user', 'content': 'c'}], 'reward_model': {'ground_truth': '7'}},
    {'question': 'd', 'answer': '1000'},
    {'question': 'e', 'answer': '1/2'},
    {'question': 'f'},
    {'question': ' a ', 'answer': '5', 'id': 9},
  ]
  (tmp_path / 'x.json').write_text(json.dumps(rows))
  data = maths.aime().load(str(tmp_path / 'x.json'))
  assert [e.fields['answer'] for e in data.examples] == ['5', '016', '7']
  assert sum('0 to 999' in p.reason for p in data.skipped) == 2
  assert {'missing:answer'} <= {p.reason for p in data.skipped}
  assert data.skipped[-1].reason == 'repeats:1'
  assert len(maths.maths().load(str(tmp_path / 'x.json')).examples) == 5
