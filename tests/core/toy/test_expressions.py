"""The task of three digits: what is asked, shown and answered belong together."""

import numpy as np
import pytest

from core.toy import digits, expressions
from rl.rewards import boxed_and_format


@pytest.mark.parametrize('split', digits.SPLITS)
def test_answer_and_solution_follow_from_the_digits_shown(split):
  seen = set()
  for i in range(300):
    item = expressions.example(split, 7, i)
    stated = item.question.translate({ord(letter): str(digit) for letter, digit in zip('ABC', item.digits)})
    read, step, value = item.solution.removeprefix('<think>').split('</think>')[0].split('=')
    assert read == stated and value == item.answer
    assert evaluate(stated) == evaluate(step) == int(item.answer)
    assert boxed_and_format(item.solution, item.answer) == pytest.approx(1.0)
    seen.add(item.question)
  assert len(seen) == 18  # 3 × 3 operators, bracket left or right


def evaluate(text: str) -> int:
  """Integer arithmetic with brackets by an implementation of its own: sympy's."""
  import sympy

  return int(sympy.Integer(sympy.parse_expr(text)))


def test_the_image_shows_scans_of_its_split_alone():
  assert expressions.example('train', 0, 0).image.size == (expressions.WIDTH, expressions.HEIGHT)
  tiles = lambda split: {
    np.asarray(expressions.example(split, 0, i).image)[:, k : k + 16].tobytes() for i in range(200) for k in (0, 16, 32)
  }
  scans = lambda split: {p.tobytes() for p in digits.scans(split).pixels}
  assert tiles('train') <= scans('train') and tiles('heldout') <= scans('heldout')
  assert not scans('train') & scans('heldout')


def test_examples_are_a_function_of_split_seed_and_index():
  a, b = (expressions.example('train', 3, 5000) for _ in range(2))
  assert a[1:] == b[1:] and a.image.tobytes() == b.image.tobytes()
  assert expressions.example('train', 4, 5000).image.tobytes() != a.image.tobytes()
  with pytest.raises(ValueError, match='-1'):
    expressions.example('train', 0, -1)
