"""Spellings of one right multiple-choice answer, and answers that commit to none."""

import json

import pytest

from bench import tasks
from bench.harness.task import Answer
from bench.vlm.answers.letters import chosen
from rl.rewards import answers
from tests.watchdog import processor_seconds

CHOICES = {'A': 'a car', 'B': 'a train', 'C': 'a ship', 'D': 'a plane'}
RIGHT = [
  'C',
  'C.',
  '(C)',
  '(C).',
  'C)',
  'C:',
  'C) a ship',
  'C. a ship',
  'C: a ship',
  '(C) a ship',
  '[C]',
  '**C**',
  '**C**.',
  '**C. a ship**',
  '**(C)** a ship',
  '`C`',
  r'\boxed{C}',
  r'$\boxed{C}$',
  r'\boxed{\text{C}}',
  r'\boxed{(C)}',
  r'\boxed{C. a ship}',
  r'\(\boxed{C}\)',
  'The answer is C.\n',
  'The answer is C.\nIt floats.',
  'The answer is **C**.',
  'The correct answer is (C).',
  'Answer: C',
  'Answer: (C) a ship',
  '**Answer:** C',
  '**Answer: C**',
  'Final Answer: C',
  '### Final Answer\nC',
  'Answer:\n\n**C**',
  '<answer>C</answer>',
  '<answer>\n(C) a ship\n</answer>',
  '<think>A has wheels, B too. \\boxed{A}</think>\nC',
  '<think>Maybe (A) or B.</think><answer>C</answer>',
  '<think>the answer is B</think>\n\nThe answer is C.',
  'Option C',
  'Option C.',
  'option (C)',
  'c',
  'c)',
  '(c)',
  'a ship',
  'A ship',
  'A ship.',
  'The answer is a ship.',
  'The correct option is C.',
  'C is correct.',
  'Option C is the correct answer, because A has wheels.',
  'A has wheels and B runs on rails, so it is C.',
  '(A) is on land. (B) is on rails. So the answer must be (C).',
  'I would choose C.',
  "It's C.",
  'Looking at the picture, I see water. C',
  'Therefore, the correct choice is C: a ship',
  'C\n\nExplanation: A is wrong as there are no wheels. B is wrong too.',
  'C. a ship\n\nA car would have wheels.',
  '答案：C',
  '答案是C',
  '<|begin_of_box|>C<|end_of_box|>',
  'Answer: C<|im_end|>',
  'A. a car\nB. a train\nC. a ship\nD. a plane\n\nThe answer is C.',
  'So the answer is: C',
  'The answer is option C.',
  'The answer is "C".',
  'The answer is $C$.',
  'The answer would be C',
  '\\text{C}',
  'C - a ship',
  'C because it floats',
  'The vessel is a ship, as it floats on the sea and not on land at all.',
  '**Final Answer**: **C**',
  '**Final Answer**\n\nThe final answer is $\\boxed{C}$',
  'The answer is (C) a ship, not (A).',
  'ship',
  'The answer is the ship',
  'I see a ship.',
  'It is "the ship"!',
  'A: no. B: no. C: yes.\nAnswer = C',
]
NONE = [
  'B or C',
  'both A and B',
  '(B) or (C)',
  'The answer is B or C.',
  'A cat is sitting there',
  '',
  'I cannot tell.',
  '<think>it is (B)',
  '\\boxed{B, C}',
  'Answer:',
  'A vehicle',
  '<think>A</think>',
  'I see no ship.',
  'Not a ship',
  'a ship, a train',
  'shipping',
]


@pytest.mark.parametrize('text', RIGHT)
def test_every_spelling_of_the_answer_is_read(text):
  assert chosen(text, CHOICES) == 'C'


@pytest.mark.parametrize('text', NONE)
def test_what_commits_to_no_option_is_no_answer(text):
  assert chosen(text, CHOICES) is None


@pytest.mark.slow
def test_a_long_text_of_anything_is_read_quickly():
  with processor_seconds(20):
    for part in (
      r'\boxed{',
      r'\text{',
      'answer is ',
      '<answer>',
      '<think>',
      'A or ',
      '(A) ',
      'the ',
      '\n',
      '** ',
      'so A ',
    ):
      chosen(part * (400_000 // len(part)), CHOICES)
    chosen('\\boxed{' + '\\text{' * 150_000 + 'C' + '}' * 150_001, CHOICES)


@pytest.mark.parametrize('name', ['mmmu', 'mmmu_pro', 'mathvista'])
def test_the_default_rule_of_each_task_reads_all_of_them(name, tmp_path):
  row = {'id': 1, 'question': 'What floats?', 'options': list(CHOICES.values()), 'answer': 'C'}
  if name == 'mathvista':
    row |= {'choices': row['options'], 'answer': 'a ship', 'answer_type': 'text'}
  (tmp_path / 'rows.json').write_text(json.dumps([row]))
  task = tasks.make(name, [])
  (example,) = task.load(str(tmp_path / 'rows.json')).examples
  outcomes = list(task.score([(example, Answer(text)) for text in RIGHT]))
  assert [text for text, o in zip(RIGHT, outcomes) if o.scores['accuracy'] != (1.0, 1.0)] == []


@pytest.mark.parametrize(
  'text',
  [
    r'The answer is \(73\).',
    'The final answer is $73$. I hope it is correct.',
    'Answer: 73. I hope it is correct.',
    r'\boxed{n = 73}',
    r'\boxed{70 + 3 = 73}',
    r'\boxed{73^\circ}',
    r'\boxed{73\text{ cm}}',
    'so\n#### 73',
    '**Answer:** 73',
    '### Final Answer\n\n**73**',
    r'<think>\boxed{5}</think>The answer is 73.',
    '<answer>73</answer>',
    r'<answer>\boxed{73}</answer>',
    '<|begin_of_box|>73<|end_of_box|>',
  ],
)
def test_spellings_of_a_number(text):
  found = answers.extract(text)
  assert answers.compare('73', found) == (True, 'ok')
  assert answers.compare('72', found) == (False, 'ok')


@pytest.mark.parametrize(
  ('gold', 'found'),
  [
    ('x=3', 'y=3'),
    ('5', '5i'),
    ('73', '73 million'),
    ('5', 'x = 4 or 5'),
    ('5', '4, x = 5'),
    ('5', 'x < 5'),
    (r'5\text{ m}', r'5\text{ cm}'),
  ],
)
def test_what_is_not_the_same_number(gold, found):
  assert answers.compare(gold, found) == (False, 'ok')


@pytest.mark.parametrize('found', ['336', r'336^{\circ}', '336°', '336 degrees', r'n = 336', r'336\text{ degrees}'])
def test_a_reference_in_degrees(found):
  assert answers.compare(r'336^\circ', found) == (True, 'ok')
  assert answers.canonical(found) == '336'
