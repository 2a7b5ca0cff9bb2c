"""Equal answers in the spellings of models, and different answers that look alike."""

from fractions import Fraction

import pytest

from rl.rewards.answers import compare, symbolically_equal
from rl.rewards.extract import boxed_answer
from rl.rewards.numbers import clean_up, rational

EQUAL = [
  ('-5', '−5'),
  ('5', 'x=5'),
  ('5', r'5 \text{ cm}'),
  (r'5 \text{ cm}', '5'),
  ('5', '(5)'),
  ('5', '5,'),
  ('A', '(A)'),
  (r'\{1,2\}', r'\{2,1\}'),
  (r'\left\{1, 2\right\}', r'\{2, 1.0\}'),
  (r'\frac{\sqrt{3}}{2}', r'\dfrac{\sqrt3}{2}'),
  (r'1.6\times10^{-19}', '1.6e-19'),
  ('1.6×10^{-19}', r'1.6 \cdot 10^{-19}'),
  ('1e3', '1,000'),
  ('10^{-2}', '0.01'),
  ('10:10', '10 : 10'),
]
DIFFERENT = [
  ('1.6e-19', '9.1e-31'),
  (r'1.6\times 10^{-19}', r'9.1\times 10^{-31}'),
  (r'2\pi\times 10^{-19}', r'\pi\times 10^{-19}'),
  ('0', '1e-7'),
  ('1200', '(1,200)'),
  ('1200', '[1,200]'),
  ('1200', '1, 200'),
  ('5', '((5'),
  ('5', '5)'),
  ('1', '10:10'),
  ('2', '4:2'),
  ('(1,2)', '(2,1)'),
  (r'\{1,2\}', r'\{1,2,3\}'),
  ('x=3', 'y=3'),
]


@pytest.mark.parametrize('symbolic', [None, symbolically_equal], ids=['exact', 'symbolic'])
def test_spellings_of_one_answer_are_equal(symbolic):
  assert [pair for pair in EQUAL if not compare(*pair, symbolic)[0] or not compare(*pair[::-1], symbolic)[0]] == []


@pytest.mark.parametrize('symbolic', [None, symbolically_equal], ids=['exact', 'symbolic'])
def test_answers_that_look_alike_are_different(symbolic):
  assert [pair for pair in DIFFERENT if compare(*pair, symbolic)[0] or compare(*pair[::-1], symbolic)[0]] == []


@pytest.mark.parametrize(
  'text, want',
  [
    ('1e400', 10**400),
    ('1e401', None),
    ('1e' + '9' * 50, None),
    (r'-2.5\times10^{-3}', Fraction(-1, 400)),
    (r'-\dfrac{1}{4}', Fraction(-1, 4)),
    ('1.2.3', None),
    ('()', None),
  ],
)
def test_rational_values(text, want):
  assert rational(text) == want


@pytest.mark.parametrize('text', ['(' * 1000 + '5', '(' * 500 + '5' + ')' * 500, r'\{' * 900, '1,234' * 300])
def test_hostile_text_is_cleaned_up_at_once(text):
  clean_up(text)
  compare('5', text)


@pytest.mark.parametrize(
  'text, want',
  [
    (r'<think> perhaps \boxed{5}', None),
    (r'\boxed{4} <think> or \boxed{5}', '4'),
    (r'<think>a \boxed{5}</think> so', '5'),
    (r'<think>a</think> <think> \boxed{5}', None),
  ],
)
def test_a_box_in_thoughts_that_never_end_is_no_answer(text, want):
  assert boxed_answer(text) == want
