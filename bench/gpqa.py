"""GPQA (arXiv 2311.12022): graduate questions with four options, in an order that depends on the question alone."""

import functools
import hashlib
import random
from collections.abc import Mapping

from bench.harness.rows import load_examples, need, row_id
from bench.harness.task import NO_ANSWER, OK, Answer, Data, Example, Outcome, Sampling, Task, each
from bench.vlm.answers import letters
from bench.vlm.choices import columns

INSTRUCTION = 'Think step by step. The last line must be "Answer: X", where X is the letter of the right option.'
_WRONG = ('Incorrect Answer 1', 'Incorrect Answer 2', 'Incorrect Answer 3')
_GROUPS = {'domain': 'High-level domain', 'subdomain': 'Subdomain'}


def gpqa(*, seed: int = 0) -> Task:
  """GPQA and its diamond set, from the released CSV. seed: of the order of the options."""
  return Task(
    name='gpqa',
    primary='accuracy',
    template=INSTRUCTION,
    load=functools.partial(_load, seed=seed),
    prompt=_prompt,
    score=each(_score),
    sampling=Sampling(samples=4, temperature=0.6, top_p=0.95, max_tokens=32_768),
    settings={'seed': seed},
    group_metrics=('accuracy',),
  )


def _load(path: str, *, seed: int) -> Data:
  return load_examples(path, functools.partial(_example, seed=seed))


def _example(where: str, row: Mapping, *, seed: int) -> Example:
  question = need(row, 'Question').strip()
  right = need(row, 'Correct Answer').strip()
  options = [right, *(need(row, name).strip() for name in _WRONG)]
  order = hashlib.sha256(f'{seed}\n{question}'.encode('utf-8', 'surrogatepass')).digest()
  random.Random(order).shuffle(options)
  choices = dict(zip('ABCD', options))
  gold = 'ABCD'[options.index(right)]
  groups = columns(row, names=_GROUPS)
  return Example(row_id(row, where, 'Record ID'), {'question': question, 'choices': choices, 'gold': gold}, groups)


def _prompt(example: Example) -> list[dict]:
  listed = [f'{letter}) {option}' for letter, option in example.fields['choices'].items()]
  text = '\n'.join([example.fields['question'], '', *listed, '', INSTRUCTION])
  return [{'role': 'user', 'content': text}]


def _score(example: Example, answer: Answer) -> Outcome:
  letter = letters.chosen(answer.text, example.fields['choices'])
  right = letter == example.fields['gold']
  return Outcome(OK if letter else NO_ANSWER, letter, {'accuracy': (float(right), 1.0)})
