"""ScreenSpot, DocVQA, InfographicVQA and ChartQA: published rules worked by hand."""

import json

import pytest
from PIL import Image

from bench import tasks
from bench.harness.task import Answer
from bench.vlm.screenspot import clicked
from bench.vlm.short_answers import anls, edit_distance, relaxed

# One point in the spellings of public models; the box has it as its centre.
SPELLINGS = (
  'click(500, 250)',
  'pyautogui.click(x=500, y=250)',
  '<point>500 250</point>',
  '[[400, 200, 600, 300]]',
  '<|box_start|>(400,200),(600,300)<|box_end|>',
  '{"action": "click", "coordinate": [500, 250]}',
  "click(start_box='(500,250)')",
  '{"x": 500, "y": 250}',
  '<point x="500" y="250" alt="save">',
  'x: 500, y: 250',
  'First (1, 1) came to mind. The point is (500.0, 250.0).',
)


def write(tmp_path, rows):
  Image.new('RGB', (200, 100)).save(tmp_path / 'a.png')
  path = tmp_path / 'rows.json'
  path.write_text(json.dumps(rows))
  return str(path)


def scores(name, path, *texts, **settings):
  task = tasks.TASKS[name](**settings)
  examples = task.load(path).examples
  pairs = [(example, Answer(text)) for example in examples for text in texts]
  return [outcome.scores[task.primary][0] for outcome in task.score(pairs)]


@pytest.mark.parametrize('text', SPELLINGS)
def test_spellings_of_one_click(text):
  assert clicked(text) == (500, 250)


def test_no_click():
  assert clicked('at the top, in 3 clicks') is None


@pytest.mark.parametrize(
  'target',
  [
    {'bbox': [0.45, 0.2, 0.55, 0.3], 'image': 'a.png'},
    {'bbox': [90, 20, 20, 10], 'img_filename': 'a.png'},
    {'bbox': [90, 20, 110, 30], 'img_filename': 'a.png', 'img_size': [200, 100]},
    {'bbox': '[90, 20, 20, 10]', 'image_path': 'a.png', 'question': 'open', 'instruction': ''},
  ],
)
def test_three_public_forms_of_a_target(tmp_path, target):
  path = write(tmp_path, [{'instruction': 'open', **target}])
  assert scores('screenspot', path, '[500, 250]', '[560, 250]', 'no') == [1, 0, 0]
  assert scores('screenspot', path, '(100, 25)', '(500, 250)', unit='pixels') == [1, 0]
  assert scores('screenspot', path, '(0.5, 0.25)', 'click(.5, .25)', unit='unit') == [1, 1]
  assert scores('screenspot', path, '<think>[500, 250]</think>[0, 0]') == [0]


def test_an_unknown_unit_is_named():
  with pytest.raises(ValueError, match='inches'):
    tasks.TASKS['screenspot'](unit='inches')


def test_anls_by_hand():
  assert edit_distance('kitten', 'sitting') == 3
  # One insertion into seven characters: 1 - 1/7. Three of four differ: below the threshold, nothing.
  assert anls('Ocober', ['october', 'ocobex']) == pytest.approx(1 - 1 / 7)
  assert anls(' New  York ', ['new york']) == 1
  assert anls('abcd', ['axyz']) == 0
  assert anls('abcd', ['abxy']) == 0.5


def test_relaxed_accuracy_by_hand():
  assert [relaxed(p, [g]) for p, g in (('105', '100'), ('106', '100'), ('Yes', 'yes'))] == [1, 0, 1]
  assert [relaxed(p, [g]) for p, g in (('5%', '0.05'), ('5%', '5'), ('0', '0'), ('0.0', '0'))] == [1, 0, 1, 0]
  assert [relaxed(p, ['10']) for p in ('nan', 'inf', '-10')] == [0, 0, 0]


def test_rows_and_marked_answers(tmp_path):
  path = write(tmp_path, [{'questionId': 7, 'question': 'Month?', 'answers': ['May'], 'image': 'a.png'}])
  said = ('May.', '<think>June</think>\\boxed{May}', '**Answer:** may', '')
  assert scores('docvqa', path, *said) == [1, 1, 1, 0]
  assert scores('infovqa', path, 'May') == [1]
  path = write(tmp_path, [{'query': 'How many?', 'label': ['41'], 'image': 'a.png', 'human_or_machine': 1}])
  assert scores('chartqa', path, 'The answer is 40.', '30') == [1, 0]
  data = tasks.TASKS['docvqa']().load(write(tmp_path, [{'question': 'Q', 'answers': []}]))
  assert [problem.reason for problem in data.skipped] == ['missing:answer']
