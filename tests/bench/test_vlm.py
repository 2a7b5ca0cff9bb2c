import base64
import io
import json

import pyarrow as pa
import pyarrow.parquet
import pytest
from PIL import Image

from bench import tasks
from bench.harness import literals
from bench.harness.task import Answer
from bench.vlm import grounding
from bench.vlm.answers import options
from bench.vlm.mathvista import normalised, quick_extract

ANIMALS = {'A': 'cat', 'B': 'dog', 'C': 'bird', 'D': 'fish'}


def png(colour=0):
  buffer = io.BytesIO()
  Image.new('RGB', (4, 4), (colour, 0, 0)).save(buffer, 'PNG')
  return buffer.getvalue()


def outcomes(task, data, *texts):
  return list(task.score(zip(data.examples, map(Answer, texts))))


def test_strict_containment_needs_whole_words():
  assert options.open_correct('category', ['cat'])
  assert not options.open_correct('category', ['cat'], strict=True)
  assert options.open_correct('it is a cat.', ['cat'], strict=True)
  long = 'in my view the doghouse is what we see'
  assert options.mmmu_option(long, ANIMALS) == 'B' and options.mmmu_option(long, ANIMALS, strict=True) is None


def test_a_guess_depends_on_the_item_alone():
  assert options.guess('x', 'ABCD') == options.guess('x', 'DCBA')
  assert {options.guess(str(i), 'ABCD') for i in range(50)} == set('ABCD')


def test_the_caller_s_options_are_left_alone():
  choices = {'A': 'Cat', 'B': 'DOG'}
  options.vlmevalkit_option('a dog', choices)
  assert choices == {'A': 'Cat', 'B': 'DOG'}


def test_mmmu_rows_as_published(tmp_path):
  rows = [
    {
      'id': 'validation_Art_1',
      'question': 'See <image 2>, then <image 1>?',
      'options': "['it\\'s', \"b\"]",
      'answer': 'B',
      'image_1': {'bytes': png(1), 'path': None},
      'image_2': {'bytes': png(2), 'path': None},
    },
    {
      'id': 'validation_Physics_2',
      'question': 'How much?',
      'options': '[]',
      'answer': "['24', '24.0']",
      'image_1': {'bytes': png(3), 'path': None},
      'image_2': None,
    },
    {
      'id': 'validation_Music_3',
      'question': 'x',
      'options': '[__import__("os")]',
      'answer': 'A',
      'image_1': None,
      'image_2': None,
    },
  ]
  pyarrow.parquet.write_table(pa.Table.from_pylist(rows), tmp_path / 'm.parquet')
  task = tasks.make('mmmu', ['rule=official'])
  data = task.load(str(tmp_path / 'm.parquet'))
  assert [(e.groups['discipline'], e.groups['subject']) for e in data.examples] == [
    ('Art & Design', 'Art'),
    ('Science', 'Physics'),
  ]
  assert 'options' in data.skipped[0].reason
  content = task.prompt(data.examples[0])[0]['content']
  kinds = [part['type'] for part in content]
  assert kinds == ['text', 'image', 'text', 'image', 'text']
  assert [part['image'].getpixel((0, 0))[0] for part in content if part['type'] == 'image'] == [2, 1]
  found = outcomes(task, data, 'hm', 'the answer is 24.004')
  assert [(o.status, o.scores['accuracy'][0]) for o in found] == [('no_answer', 0), ('ok', 1)]
  guessing = tasks.make('mmmu', ['rule=official', 'guess=true'])
  guessed = outcomes(guessing, data, 'hm', '')[0]
  assert guessed.answer in 'AB' and guessed.scores['parsed'] == (0.0, 1.0)


def test_vlmevalkit_turns_open_questions_into_two_options(tmp_path):
  header = ['index', 'question', 'image', 'A', 'B', 'answer', 'category', 'l2-category']
  picture = base64.b64encode(png()).decode()
  rows = [
    ['1', 'which?', picture, 'cat', 'dog', 'A', 'Art', 'Art & Design'],
    ['2', 'what?', picture, '', '', 'seven', 'Math', 'Science'],
  ]
  (tmp_path / 'k.tsv').write_text('\n'.join('\t'.join(row) for row in [header, *rows]) + '\n')
  judgements = tmp_path / 'j.jsonl'
  task = tasks.make('mmmu', ['rule=vlmevalkit'])
  data = task.load(str(tmp_path / 'k.tsv'))
  found = outcomes(task, data, 'B or A', 'it is seven')
  assert [(o.status, o.answer) for o in found] == [('no_answer', None), ('ok', 'A')]

  class Judge:
    name, concurrent = 'judge', True

    def __call__(self, messages, sampling, seed):
      return Answer('A' if 'Other Answers' in messages[0]['content'] else 'who knows')

  asking = tasks.make('mmmu', ['rule=vlmevalkit', f'judgements={judgements}'], Judge())
  found = outcomes(asking, data, 'B or A', 'about the number after six, I suppose; it is hard to say what it is')
  assert [(o.status, o.scores['accuracy'][0]) for o in found] == [('judge_failed', 0), ('ok', 1)]


def test_mmmu_pro_reads_the_last_answer_line(tmp_path):
  row = {'id': 1, 'question': 'x', 'options': [str(i) for i in range(10)], 'answer': 'J', 'subject': 'Math'}
  (tmp_path / 'p.json').write_text(json.dumps([row]))
  task = tasks.make('mmmu_pro', [])
  data = task.load(str(tmp_path / 'p.json'))
  found = outcomes(task, data, 'Answer: (B)\nno wait (C)\n**Answer: J**\n')
  assert found[0].scores['accuracy'] == (1.0, 1.0)


@pytest.mark.parametrize(
  ('response', 'kind', 'choices', 'answer', 'official', 'kit'),
  [
    ('5', 'integer', (), '5', True, True),
    ('5.7', 'integer', (), '5', True, False),
    (' 05 ', 'integer', (), '5', True, True),
    ('1.249', 'float', (), '1.25', True, False),
    ('Final answer: 1.25', 'float', (), '1.25', True, False),
    ('[1, 2]', 'list', (), '[1, 2]', True, False),
    ('(B)', 'text', ('Yes', 'No'), 'No', True, True),
    ('Nah', 'text', ('Yes', 'No'), 'No', True, False),
    ('No', 'text', ('Yes', 'No'), 'No', True, True),
    ('1e999', 'float', (), '1', False, False),
    ('', 'integer', (), '1', False, False),
  ],
)
def test_mathvista_rules(tmp_path, response, kind, choices, answer, official, kit):
  row = {
    'pid': '1',
    'query': 'q',
    'choices': list(choices) or None,
    'answer': answer,
    'answer_type': kind,
    'question_type': 'multi_choice' if choices else 'free_form',
    'precision': 2.0 if kind == 'float' else None,
  }
  (tmp_path / 'v.json').write_text(json.dumps({'1': row}))
  for rule, want in (('official', official), ('vlmevalkit', kit)):
    task = tasks.make('mathvista', [f'rule={rule}'])
    found = outcomes(task, task.load(str(tmp_path / 'v.json')), response)
    assert found[0].scores['accuracy'][0] == want, rule


def test_mathvista_s_official_rule_makes_an_option_of_anything():
  fields = {'choices': ('left', 'right'), 'kind': 'text', 'precision': 1, 'answer': 'right'}
  assert normalised('rihgt', fields, 'official') == 'right'
  assert normalised('rihgt', fields, 'vlmevalkit') is None
  assert quick_extract('it is right', fields, 'official') is None


@pytest.mark.parametrize(
  ('a', 'b', 'want'),
  [
    ((0, 0, 2, 2), (1, 1, 3, 3), 1 / 7),
    ((0, 0, 2, 2), (0, 0, 2, 2), 1),
    ((0, 0, 1, 1), (1, 0, 2, 1), 0),
    ((2, 2, 0, 0), (0, 0, 2, 2), 0),
    ((1, 1, 1, 1), (1, 1, 1, 1), 0),
    ((0, 0, 4, 4), (1, 1, 3, 3), 0.25),
  ],
)
def test_overlap_of_boxes(a, b, want):
  assert grounding.iou(a, b) == pytest.approx(want) == grounding.iou(b, a)


def test_boxes_are_read_in_thousandths(tmp_path):
  row = {'id': 1, 'expression': 'the cup', 'bbox': [20, 10, 100, 50], 'width': 200, 'height': 100}
  (tmp_path / 'g.json').write_text(json.dumps([row, row | {'id': 2, 'bbox': [1, 2]}]))
  task = tasks.make('grounding', [])
  data = task.load(str(tmp_path / 'g.json'))
  assert 'four numbers' in data.skipped[0].reason
  found = outcomes(task, data, '<ref>the cup</ref><box>[[0, 0, 9, 9]]</box> or [[100, 100, 500, 500]]')
  assert found[0].scores == {'accuracy': (1.0, 1.0), 'iou': (1.0, 1.0)}
  assert outcomes(task, data, 'nowhere')[0].status == 'no_answer'


@pytest.mark.parametrize('text', ["['a', 'b']", '["a", "b"]', '(\'a\', "b",)', "[ 'a' ,\n'b' ]"])
def test_flat_lists(text):
  assert literals.read_list(text) == ['a', 'b']


@pytest.mark.parametrize(
  'text',
  [
    '[a]',
    "['a' 'b']",
    "['a',, 'b']",
    "[['a']]",
    "{'a'}",
    "['a'",
    "'a'",
    '[f()]',
    '[1',
    '[-]',
    '[0x10]',
    "[u'a']",
    '[' * 70_000,
    '[' + "'a'," * 20_000 + ']',
  ],
)
def test_anything_else_is_no_list(text):
  with pytest.raises(ValueError):
    literals.read_list(text)
