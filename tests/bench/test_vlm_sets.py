"""Published rules of benchmarks with pictures, and of GPQA, worked by hand."""

import base64
import io
import json

import pytest
from PIL import Image

from bench import predictions, run, tasks
from bench.harness.task import Answer, Item
from bench.vlm.multiple_choice import inline_choices
from bench.vlm.text_in_pictures import normal_form, vqa_accuracy
from bench.vlm.vsi import relative_accuracy


def scored(name, tmp_path, rows, texts):
  """(task, items) of one output for each row."""
  path = tmp_path / 'rows.json'
  path.write_text(json.dumps(rows))
  task = tasks.TASKS[name]()
  data = task.load(str(path))
  assert not data.skipped
  pairs = [(example, Answer(text)) for example, text in zip(data.examples, texts, strict=True)]
  outcomes = list(task.score(pairs))
  return task, [Item(e, (a,), (o,), task.combine(e, (a,), (o,))) for (e, a), o in zip(pairs, outcomes)]


def points(items):
  return [item.scores['accuracy'][0] for item in items]


@pytest.mark.parametrize('name', ['ai2d', 'mmstar', 'realworldqa', 'erqa'])
def test_options_in_columns_and_written_out_in_the_question(name, tmp_path):
  rows = [
    {'index': 1, 'question': 'Which?', 'A': 'left', 'B': 'right', 'answer': 'B'},
    {'index': 2, 'question': 'Which way? A. turn left B. turn right C. stop. Please answer.', 'answer': 'C'},
    {'index': 3, 'question': 'How many lanes are there?', 'answer': '4'},
  ]
  task, items = scored(name, tmp_path, rows, ['It is **B**, the right.', 'C', 'There are 4.'])
  assert points(items) == [1, 1, 1]
  asked = [task.prompt(item.example)[0]['content'] for item in items]
  assert 'A. left\nB. right' in asked[0] and asked[1].count('turn left') == 1
  assert [item.example.groups['kind'] for item in items] == ['multiple choice', 'multiple choice', 'open']


def picture():
  raw = io.BytesIO()
  Image.new('RGB', (8, 8)).save(raw, 'PNG')
  return base64.b64encode(raw.getvalue()).decode()


OPTIONS = ['a car', 'a train', 'a ship']
MARKED = 'What floats?\nOptions: A: a car, B: a train, C: a ship'
LISTED = 'What floats?\nChoices:\nA:a car\nB:a train\nC:a ship'
VERSE = {'problem_version': 'Vision Only', 'question_type': 'multi-choice', 'question': '', 'question_for_eval': LISTED}
# Rows as the released files have them, where they are unlike VLMEvalKit's table; a ship is right in each.
RELEASED = {
  'ai2d': {'question': 'What floats?', 'options': OPTIONS, 'answer': '2'},
  'mmstar': {'index': 0, 'question': MARKED, 'answer': 'C', 'meta_info': {'image_path': 'x.jpg'}},
  'mathvision': {'question': 'What floats?<image1>', 'options': OPTIONS, 'answer': 'C', 'image': 'images/1.jpg'},
  'mathverse': {'sample_index': '1', 'answer': 'C', **VERSE},
  'dynamath': {'question': 'Which? (A) a car (B) a train (C) a ship', 'answer_type': 'multiple choice', 'answer': 'C'},
}


@pytest.mark.parametrize('name', RELEASED)
def test_rows_of_the_released_files(name, tmp_path):
  task, items = scored(name, tmp_path, [RELEASED[name] | {'decoded_image': picture()}], ['It is a ship.'])
  assert points(items) == [1] and items[0].outcomes[0].answer == 'C'
  content = task.prompt(items[0].example)[0]['content']
  assert [part['type'] for part in content] == ['image', 'text']


def test_a_variant_of_dynamath_is_told_by_its_file(tmp_path):
  row = {'id': '7', 'question': '?', 'answer_type': 'float', 'ground_truth': '2.5'}
  for variant in (1, 2):
    (tmp_path / f'sample_variant{variant}.json').write_text(json.dumps([row]))
  data = tasks.TASKS['dynamath']().load(str(tmp_path))
  assert not data.skipped and [example.cluster for example in data.examples] == ['7', '7']


def test_several_pictures_in_one_cell_and_marks_without_numbers(tmp_path):
  row = {'index': 0, 'question': 'See <image> and <image>.', 'A': 'left', 'B': 'right', 'answer': 'B'}
  task, items = scored('erqa', tmp_path, [row | {'image': str([picture(), picture()])}], ['B'])
  content = task.prompt(items[0].example)[0]['content']
  assert [part['type'] for part in content] == ['text', 'image', 'text', 'image', 'text']


def test_a_picture_is_found_in_a_folder_next_to_the_table_or_refused(tmp_path):
  (tmp_path / 'png').mkdir()
  (tmp_path / 'png' / 'c.png').write_bytes(base64.b64decode(picture()))
  rows = [{'query': 'How many?', 'label': '41', 'imgname': 'c.png'}, {'query': 'Who?', 'label': 'Al'}]
  task, items = scored('chartqa', tmp_path, rows, ['"41"', 'Al.'])
  assert points(items) == [1, 1]
  assert task.prompt(items[0].example)[0]['content'][0]['type'] == 'image'
  with pytest.raises(ValueError, match='names no picture in any of decoded_image, image'):
    task.prompt(items[1].example)


def test_options_are_read_from_a_question_only_in_order():
  assert inline_choices('Which? A. one B. two\nC) three of A. Smith') == {
    'A': 'one',
    'B': 'two',
    'C': 'three of A. Smith',
  }
  assert inline_choices('Where did B. Franklin meet A. Smith?') == {} == inline_choices('One? A. yes')


def test_vqa_accuracy_by_hand():
  """Of ten people three say red: each of the three has two others, each of the seven three. (3·2/3 + 7·1) / 10."""
  people = ['red'] * 3 + ['blue'] * 7
  assert vqa_accuracy('Red.', people) == pytest.approx(0.9)
  assert vqa_accuracy('the blue', people) == 1
  assert vqa_accuracy('green', people) == 0
  assert vqa_accuracy('red', ['red'] + ['blue'] * 9) == pytest.approx(0.3)


@pytest.mark.parametrize(
  'answer,form',
  [
    ('The Two  dogs', '2 dogs'),
    ('dont', "don't"),
    ('ill', 'ill'),
    ('1,000', '1000'),
    ('red/white', 'red white'),
    ('red, white', 'red white'),
    ('3.5 m.', '3.5 m'),
    ('none', '0'),
  ],
)
def test_answers_as_vqa_compares_them(answer, form):
  assert normal_form(answer) == form


def test_ocrbench_looks_for_the_answer_in_the_output(tmp_path):
  formula = 'Handwritten Mathematical Expression Recognition'
  rows = [
    {'id': 1, 'question': 'What is written?', 'answer': ['CENTRE', 'center'], 'category': 'Regular Text Recognition'},
    {'id': 2, 'question': 'Formula?', 'answer': ['x ^ { 2 }'], 'question_type': formula},
    {'id': 3, 'question': 'Formula?', 'answer': ['X'], 'category': formula},
  ]
  task, items = scored('ocrbench', tmp_path, rows, ['It says\nCentre here', 'x^{2} + 1', 'x'])
  assert points(items) == [1, 1, 0]
  assert task.extras(items) == {'points': 2, f'points: {formula}': 1, 'points: Regular Text Recognition': 1}


def test_three_accuracies_of_hallusionbench(tmp_path):
  """Two questions about two figures; one answer of four is wrong. Both forms of the public file."""
  rows = [
    {'subcategory': 'chart', 'set_id': '0', 'figure_id': f, 'question_id': q, 'question': '?', 'gt_answer': '1'}
    for f in ('0', '1')
    for q in ('0', '1')
  ]
  rows[3] = {'index': 'VS_chart_x_0_1_1', 'l2-category': 'chart', 'question': '?', 'answer': 'Yes'}
  task, items = scored(
    'hallusionbench', tmp_path, rows, ['Yes', 'yes, since no bar is higher', '<think>no</think>Yes.', 'No']
  )
  assert points(items) == [1, 1, 1, 0]
  assert task.extras(items) == {'aAcc': 75, 'fAcc': 50, 'qAcc': 50}
  assert len({item.example.unit for item in items}) == 1


def test_rows_without_an_answer_are_named(tmp_path):
  path = tmp_path / 'rows.json'
  path.write_text(json.dumps([{'question': '?', 'set_id': '0'}, {'question': '?', 'gt_answer': '1'}]))
  reasons = [problem.reason for problem in tasks.TASKS['hallusionbench']().load(str(path)).skipped]
  assert reasons == ['answer is neither yes nor no', 'missing:set_id']


def test_mean_relative_accuracy_by_hand():
  """An error of 22 % is within 50, 45, … 25 %: six of ten tolerances; one of exactly 20 % within seven."""
  assert relative_accuracy(10, 10) == 1 and relative_accuracy(3.6, 3) == pytest.approx(0.7)
  assert relative_accuracy(78, 100) == pytest.approx(0.6) and relative_accuracy(20, 10) == 0
  assert relative_accuracy(1, 0) == 0


def test_vsibench_has_choices_and_numbers(tmp_path, monkeypatch):
  (tmp_path / 'scannet').mkdir()
  (tmp_path / 'scannet' / 's1.mp4').write_bytes(b'')
  where = {'dataset': 'scannet', 'scene_name': 's1', 'question': '?'}
  rows = [
    {'id': 1, 'question_type': 'object_counting', 'options': None, 'ground_truth': '4', **where},
    {
      'id': 2,
      'question_type': 'object_rel_direction_easy',
      'options': ['A. left', 'B. right'],
      'ground_truth': 'B',
      **where,
    },
    {
      'id': 3,
      'question_type': 'object_rel_direction_hard',
      'options': ['A. left', 'B. right'],
      'ground_truth': 'A',
      **where,
    },
  ]
  task, items = scored('vsibench', tmp_path, rows, ['<think>9</think>There are 5.', 'B. right', 'B'])
  assert [item.scores['score'][0] for item in items] == pytest.approx([0.6, 1, 0])
  easy, hard = items[1:]
  # The mean of 60 and of the two difficulties' mean, 50, however many questions each has.
  assert task.extras([*items, hard, hard]) == {'overall': pytest.approx(55)} == task.extras([*items, easy])
  monkeypatch.setattr('bench.vlm.vsi.video.load_frames', lambda path, n: [path] * n)
  (turn,) = task.prompt(items[1].example)
  assert len(turn['content']) == 17 and 'A. left\nB. right' in turn['content'][-1]['text']


def test_a_missing_video_is_named(tmp_path):
  path = tmp_path / 'rows.json'
  path.write_text(json.dumps([{'question': '?', 'question_type': 'x', 'dataset': 'a', 'scene_name': 'b'}]))
  assert [p.reason for p in tasks.TASKS['vsibench']().load(str(path)).skipped] == ['video not found: a/b.mp4']


def test_options_of_gpqa_are_shuffled_by_question_and_seed(tmp_path):
  names = ('Correct Answer', 'Incorrect Answer 1', 'Incorrect Answer 2', 'Incorrect Answer 3')
  rows = [{'Question': f'Question {i}?', **dict(zip(names, ('1 m', '2 m', '3 m', '4 m')))} for i in range(40)]
  path = tmp_path / 'rows.json'
  path.write_text(json.dumps(rows))
  orders = [[e.fields['gold'] for e in tasks.TASKS['gpqa'](seed=s).load(str(path)).examples] for s in (0, 0, 1)]
  assert orders[0] == orders[1] != orders[2] and set(orders[0]) == set('ABCD')
  task = tasks.TASKS['gpqa']()
  example = task.load(str(path)).examples[0]
  gold = example.fields['gold']
  assert example.fields['choices'][gold] == '1 m'
  said = [f'It is long.\nAnswer: {gold}', '1 m', 'No idea.']
  assert [o.scores['accuracy'][0] for o in task.score((example, Answer(text)) for text in said)] == [1, 1, 0]


def test_mathvision_has_options_and_free_answers(tmp_path):
  rows = [
    {
      'id': '1',
      'question': 'Which angle? <image1>',
      'options': ['30', '60'],
      'answer': 'B',
      'subject': 'angle',
      'level': 1,
    },
    {'id': '2', 'question': 'How long?', 'options': [], 'answer': '\\frac{3}{2}', 'subject': 'length', 'level': 2},
  ]
  task, items = scored('mathvision', tmp_path, rows, ['\\boxed{B}', 'So it is \\boxed{1.5}.'])
  assert points(items) == [1, 1]
  asked = task.prompt(items[0].example)[0]['content']
  assert asked.startswith('Which angle?\nA. 30\nB. 60\n') and '<image' not in asked


def test_mathverse_keeps_one_version_of_each_problem(tmp_path):
  question = 'As shown. Find x.\nChoices:\nA:10°\nB:20°'
  rows = [
    {
      'sample_index': str(i),
      'problem_index': '7',
      'problem_version': v,
      'question': question,
      'question_type': 'multi-choice',
      'answer': 'B',
    }
    for i, v in enumerate(('Text Lite', 'Vision Only'))
  ]
  _, items = scored('mathverse', tmp_path, rows, ['20°'])
  assert [item.example.groups['version'] for item in items] == ['Vision Only'] and points(items) == [1]
  with pytest.raises(ValueError, match="version is 'Text', expected all or one of Text Lite, Vision Only"):
    tasks.TASKS['mathverse'](version='Text').load(str(tmp_path / 'rows.json'))


def test_the_worst_case_of_dynamath(tmp_path):
  row = {'question': '?', 'answer_type': 'float', 'answer': '1.414', 'subject': 'algebra'}
  rows = [{'index': i, 'qid': i // 2, **row} for i in range(4)]
  said = ['\\boxed{1.4141}', '{"solution": "so", "short answer": "1.415"}', '1.41', 'It is 1.414']
  task, items = scored('dynamath', tmp_path, rows, said)
  assert points(items) == [1, 1, 0, 1]
  assert task.extras(items) == {'average': 75, 'worst case': 50}


def test_a_prediction_table_goes_out_and_comes_back_with_the_same_score(tmp_path, monkeypatch):
  """The answers of a run, written as VLMEvalKit's table and scored from it."""
  monkeypatch.chdir(tmp_path)
  head, picture = 'index\tquestion\tA\tB\tanswer\timage\n', base64.b64encode(bytes(40)).decode()
  data = tmp_path / 'set.tsv'
  data.write_text(head + ''.join(f'{i}\tWhich?\tleft\tright\tB\t{picture}\n' for i in range(3)))
  said = ['B', 'It is\t"left",\nso A', 'right']
  (tmp_path / 'said.jsonl').write_text(
    ''.join(json.dumps({'id': str(i), 'text': t}) + '\n' for i, t in enumerate(said))
  )
  common = ['--task=mmstar', f'--data={data}', '--resamples=100']
  assert run.main(['run', *common, '--answers=said.jsonl', '--out=first']) == 0
  assert predictions.main(['predictions', '--run=first', f'--data={data}', '--out=table.tsv']) == 0
  assert picture not in (tmp_path / 'table.tsv').read_text()
  assert run.main(['run', *common, '--answers=table.tsv', '--out=second']) == 0
  first, second = ((tmp_path / name / 'results.jsonl').read_text() for name in ('first', 'second'))
  assert first == second and [json.loads(line)['scores']['accuracy'][0] for line in first.splitlines()] == [1, 0, 1]


def test_a_run_of_other_data_is_refused(tmp_path, capsys):
  (tmp_path / 'results.jsonl').write_text(json.dumps({'id': 'x', 'samples': [{'text': 'B'}]}) + '\n')
  (tmp_path / 'set.tsv').write_text('index\tquestion\n1\tWhich?\n')
  flags = [f'--run={tmp_path}', f'--data={tmp_path / "set.tsv"}', f'--out={tmp_path / "out.tsv"}']
  assert predictions.main(['predictions', *flags]) == 1
  assert 'answers none of the 1 rows' in capsys.readouterr().err and not (tmp_path / 'out.tsv').exists()
