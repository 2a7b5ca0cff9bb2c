"""What a script takes of the context."""

import dataclasses

import numpy as np
import pytest

from tests.vibevoice import tiny
from vibevoice.config import CONFIGS
from vibevoice.inputs import budget
from vibevoice.inputs.script import Line

LINES = [Line(1 + i % 2, f'word {i}') for i in range(20)]


def planned(context: int, lines=LINES, voices=()) -> budget.Budget:
  language = dataclasses.replace(tiny.CONFIG.language, max_length=context)
  config = dataclasses.replace(tiny.CONFIG, language=language)
  return budget.plan(lines, voices, tiny.processor().encode, config)


def test_the_prompt_is_the_one_that_is_spoken():
  clips = [tiny.clip(3 * tiny.HOP), tiny.clip(5 * tiny.HOP)]
  inputs = tiny.processor()(LINES, clips)
  made = tiny.processor().plan(LINES, clips)
  assert made.prompt == len(inputs.tokens) and made.voices == int(inputs.slots.sum()) == 8


def test_what_is_said_to_fit_fits_and_one_more_does_not():
  part = planned(1200)
  assert 0 < part.fitting < len(LINES) == part.utterances and part.excess > 0
  assert planned(1200, LINES[: part.fitting]).excess == 0
  assert planned(1200, LINES[: part.fitting + 1]).excess > 0
  assert planned(100_000).excess == 0 and planned(100_000).fitting == len(LINES)
  assert planned(part.prompt + part.expected).excess == 0
  assert planned(part.prompt + part.expected - 7).excess == 7
  nothing = planned(50)
  assert nothing.left < 0 and nothing.fitting == 0 and nothing.excess == nothing.expected - nothing.left


@pytest.mark.parametrize(('name', 'position'), [('1.5B', 28_672), ('7B', 57_344)])
def test_published_sizes_have_the_published_bytes_a_position(name, position):
  language = CONFIGS[name].language
  assert budget.position_bytes(language, 2) == position


def test_the_text_says_by_how_much_and_what_to_cut():
  part = planned(1200)
  text = budget.described(part)
  assert f'too long by about {part.excess} frames' in text and f'first {part.fitting} of 20 utterances' in text
  assert 'too long' not in budget.described(planned(100_000))
  assert np.isclose(part.frame_seconds, tiny.HOP / 24_000)
