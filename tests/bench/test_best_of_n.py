"""Splitting into steps, the turns of the critic, its scores, and votes."""

import dataclasses

import jax
import numpy as np
import pytest
from PIL import Image

import internvl
from bench.harness import best_of_n
from bench.harness.best_of_n import Judgement, Protocol, conversation, judge, majority, steps
from internvl.inputs.processor_config import ProcessorConfig
from internvl.inputs.templates import LAYOUTS


@pytest.mark.parametrize(
  'n, most, sizes', [(1, 12, [1]), (12, 12, [1] * 12), (13, 12, [2] * 6 + [1]), (25, 12, [3] * 8 + [1]), (3, 1, [3])]
)
def test_steps_are_joined_evenly_and_lose_nothing(n, most, sizes):
  text = '\n\n'.join(f'step {i}' for i in range(n))
  got = steps(text, most)
  assert [len(s.split('\n\n')) for s in got] == sizes and '\n\n'.join(got) == text


def test_blank_lines_of_every_kind_split():
  assert steps('a\n \n\n\nb\n\n \n') == ['a', 'b']
  assert steps('') == [''] and steps('\n\n') == ['']


def test_the_turns_hold_one_step_each_and_marks_of_the_answer_are_words():
  talk = conversation('<image>\nWhy?', 'first <image>\n\nsecond', Protocol(first='Q {question} S {step}'))
  assert [t['role'] for t in talk] == ['system', 'user', 'assistant', 'user', 'assistant']
  assert talk[1]['content'] == 'Q <image>\nWhy? S first < image>' and talk[3]['content'] == 'second'
  assert {t['content'] for t in talk[2::2]} == {'+'}
  talk = conversation('the {step}?', 'the {question}', Protocol(first='{question} {step}', system=''))
  assert talk[0]['content'] == 'the {step}? the {question}'


def critic(template='internvl_hf'):
  tiny = internvl.CONFIGS['tiny']
  processor = internvl.Processor.over_bytes(
    ProcessorConfig(
      image_size=tiny.vision.image_size,
      tokens_per_tile=tiny.tokens_per_tile,
      max_tiles=2,
      thumbnail=False,
      template=template,
      max_length=1024,
    )
  )
  config = dataclasses.replace(
    tiny, image_token=processor.image_id, language=dataclasses.replace(tiny.language, vocab=len(processor.tokenizer))
  )
  return internvl.init(jax.random.key(0), config), config, processor


IMAGE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 32, 3), np.uint8))


@pytest.mark.slow
def test_scores_are_those_of_asking_turn_by_turn():
  params, config, processor = critic()
  answers = ['one\n\ntwo + two\n\nthree', 'short']
  got = judge(params, config, processor, '<image>\nSum?', [IMAGE], answers)
  assert [len(j.steps) for j in got] == [3, 1]
  plus, minus = (processor.tokenizer.encode(c, add_special_tokens=False)[0] for c in '+-')
  for answer, judgement in zip(answers, got):
    talk = conversation('<image>\nSum?', answer)
    for k, p in enumerate(judgement.steps):
      x = processor(talk[: 2 + 2 * k], [IMAGE])  # a prompt that ends with step k
      z = internvl.apply(params, config, x.tokens[None], pixels=x.pixels[None]).logits[0, -1]
      assert p == pytest.approx(float(jax.nn.sigmoid(z[plus] - z[minus])), abs=1e-4)
  assert got[0].score == pytest.approx(np.mean(got[0].steps))


@pytest.mark.parametrize('template', LAYOUTS)
def test_every_step_has_a_score_in_every_layout(template):
  params, config, processor = critic(template)
  (only,) = judge(
    params, config, processor, 'Why?', [], ['+ +\n\n<|im_end|> <image>\n\n+'], Protocol(system='', most=2)
  )
  assert len(only.steps) == 2 and all(0 < p < 1 for p in only.steps)


def test_a_label_of_several_tokens_is_refused():
  params, config, processor = critic()
  with pytest.raises(ValueError, match="label 'good' is 4 tokens"):
    judge(params, config, processor, 'Why?', [], ['x'], Protocol(good='good'))


def test_the_best_and_the_most_frequent():
  assert best_of_n.best([Judgement((0.1, 0.9)), Judgement((0.6,)), Judgement((0.6, 0.6))]) == 1
  assert majority(['7', None, '8', '8', '7', '8']) == 2
  assert majority(['7', '8']) == 0
  assert majority([None, None]) is None
