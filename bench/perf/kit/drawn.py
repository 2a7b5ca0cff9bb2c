"""Prediction tables in VLMEvalKit's columns: drawn questions, and answers in the spellings that models use."""

import random
from collections.abc import Callable

Row = dict[str, str]
TASKS = ('docvqa', 'infovqa', 'chartqa', 'textvqa', 'ocrbench', 'ai2d', 'mmstar', 'hallusionbench', 'mathvista')
_TEXTS = (
  *('March 2004', 'Acme Corp.', '$1,250', 'Dr. E. Lund', '3.5 m', 'the river', 'two', 'St. Moritz', 'no', 'A-17/b'),
  *('don’t walk', "don't walk", 'exit', '20%', 'Item #4', 'x = 3', 'north-west', '9:45', 'a dog', 'cafe, closed'),
)
_NUMBERS = ('41', '0.5', '12.25', '7%', '0', '1,300', '2019', '-4', '100', '63.8')
_OPTIONS = ('cat', 'dog', 'a red car', 'none of these', '1.5 eV', 'left', 'right', 'the moon', 'ice', 'Paris')
_FORMULAS = ('x ^ { 2 } + 1', r'\frac { a } { b }', 'E = m c ^ 2', r'\sqrt { n }')
FORMULAS = 'Handwritten Mathematical Expression Recognition'
_SHORT: tuple[Callable[[str], str], ...] = (
  *(lambda a: a for _ in range(6)),
  str.lower,
  str.upper,
  lambda a: f'{a}.',
  lambda a: f' {a}\n',
  lambda a: a.replace(' ', '  '),
  lambda a: f'The answer is {a}.',
  lambda a: f'**{a}**',
  lambda a: a[:-1],
  lambda a: a[:1] + a,
  lambda a: f'It says "{a}", I think.',
  lambda a: a.replace(',', ''),
  lambda a: a.replace('%', ' percent'),
)
_LETTER: tuple[Callable[[str, str], str], ...] = (
  *(lambda letter, option: letter for _ in range(4)),
  lambda letter, option: f'({letter})',
  lambda letter, option: f'{letter}. {option}',
  lambda letter, option: f'**{letter}**',
  lambda letter, option: f'The answer is {letter}.',
  lambda letter, option: f'the correct answer is **{letter}** because of the shadow in the picture on the left side',
  lambda letter, option: option,
  lambda letter, option: f'I see {option}.',
  lambda letter, option: f'Both look alike.\nAnswer: {letter}',
  lambda letter, option: f'A or {letter}',
  lambda letter, option: letter.lower(),
  lambda letter, option: 'Cannot determine the answer',
  lambda letter, option: f'The answer is a {option}',
)
_YES_OR_NO = (
  *('{}', '{}', '{}.', '{}, it is larger', 'The answer is {}', '**{}**', 'yes or no? {}', 'I think so', '{}!', '{}:1'),
  *('{}\nThere is one.', '"{}"', 'Well,{},of course'),
)


def table(task: str, rows: int, seed: int) -> list[Row]:
  """A table of `rows` questions with an answer and a prediction each. Raises KeyError for a task not in TASKS."""
  draw = random.Random(f'{task}/{seed}')
  make = _MAKERS[task]
  return [{'index': str(number), 'question': f'Question {number}?', **make(draw, number)} for number in range(rows)]


def _said(draw: random.Random, gold: str, others: tuple[str, ...]) -> str:
  """A right answer in most draws, else another, in some spelling."""
  answer = gold if draw.random() < 0.7 else draw.choice(others)
  return draw.choice(_SHORT)(answer)


def _texts(draw: random.Random, number: int) -> Row:
  golds = draw.sample(_TEXTS, draw.choice((1, 1, 2)))
  return {'answer': str(golds), 'prediction': _said(draw, golds[0], _TEXTS)}


def _chart(draw: random.Random, number: int) -> Row:
  gold = draw.choice(_NUMBERS + _TEXTS)
  near = (*_NUMBERS, '42', '0.51', '13', '7', '0.07', '2000')
  return {'answer': str([gold]), 'prediction': _said(draw, gold, near), 'split': draw.choice(('human', 'augmented'))}


def _people(draw: random.Random, number: int) -> Row:
  first, second = draw.sample(_TEXTS + _NUMBERS, 2)
  share = draw.randint(0, 10)
  golds = [first] * share + [second] * (10 - share)
  return {'answer': str(golds), 'prediction': _said(draw, first, _TEXTS)}


def _written(draw: random.Random, number: int) -> Row:
  is_formula = number % 4 == 0
  known = _FORMULAS if is_formula else _TEXTS
  gold = draw.choice(known)
  category = FORMULAS if is_formula else 'Scene Text-centric VQA'
  return {'answer': str([gold]), 'prediction': _said(draw, gold, known), 'category': category}


def _choice(draw: random.Random, number: int) -> Row:
  options = dict(zip('ABCD', draw.sample(_OPTIONS, 4)))
  gold = draw.choice('ABCD')
  said = gold if draw.random() < 0.7 else draw.choice('ABCD')
  prediction = draw.choice(_LETTER)(said, options[said])
  return {**options, 'answer': gold, 'prediction': prediction, 'category': draw.choice(('food web', 'parts'))}


def _figure(draw: random.Random, number: int) -> Row:
  """Two questions about each of two figures of a set."""
  group, place = divmod(number, 4)
  gold = draw.choice(('Yes', 'No'))
  said = gold if draw.random() < 0.8 else draw.choice(('Yes', 'No'))
  return {
    'index': f'VS_chart_x_{group}_{place // 2}_{place % 2}',
    'answer': gold,
    'prediction': draw.choice(_YES_OR_NO).format(draw.choice((said, said.lower()))),
    'category': 'VS',
    'l2-category': 'chart',
  }


def _vista(draw: random.Random, number: int) -> Row:
  if number % 2:
    row = _choice(draw, number)
    choices = [row.pop(letter) for letter in 'ABCD']
    answer = choices['ABCD'.index(row['answer'])]
    kinds = {'question_type': 'multi_choice', 'answer_type': 'text', 'answer_option': row['answer']}
    return {**row, **kinds, 'choices': str(choices), 'answer': answer, 'task': 'figure question answering'}
  kind = draw.choice(('integer', 'float', 'text', 'list'))
  gold = {'integer': '7', 'float': '1.25', 'text': 'north', 'list': '[1, 2]'}[kind]
  said = _said(draw, gold, ('8', '1.2', '1.250', '07', '7.0', 'south'))
  kinds = {'question_type': 'free_form', 'answer_type': kind, 'answer_option': ''}
  return {**kinds, 'choices': '', 'answer': gold, 'prediction': said, 'task': 'math word problem'}


_MAKERS = {
  'docvqa': _texts,
  'infovqa': _texts,
  'chartqa': _chart,
  'textvqa': _people,
  'ocrbench': _written,
  'ai2d': _choice,
  'mmstar': _choice,
  'hallusionbench': _figure,
  'mathvista': _vista,
}
