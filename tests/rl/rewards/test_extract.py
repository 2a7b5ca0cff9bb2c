"""The box that counts, in outputs written to confuse."""

import pytest

from rl.rewards.extract import boxed_answer, last_box, strip_thoughts
from tests.watchdog import processor_seconds


@pytest.mark.parametrize(
  'text, want',
  [
    (r'so \boxed{1} no, \boxed{\frac{a}{b}}', r'\frac{a}{b}'),
    (r'\boxed {x} and \fbox{y}', 'y'),
    (r'\boxed{\{1, 2\}}', r'\{1, 2\}'),
    (r'\boxed{a \} b}', r'a \} b'),
    (r'\boxed{\boxed{x}}', r'\boxed{x}'),
    (r'\boxed{x} then \boxed{\frac{1}{2}', 'x'),
    (r'\boxed{unfinished', None),
    (r'\boxed{}', ''),
    ('no box at all }}}', None),
    ('', None),
    (r'\\{\boxed{n}}', 'n'),
  ],
)
def test_last_box(text, want):
  assert last_box(text) == want


def test_thoughts_do_not_count_unless_nothing_else_is_there():
  text = r'<think>\boxed{guess}</think> The answer is \boxed{x}'
  assert strip_thoughts(text) == r' The answer is \boxed{x}'
  assert boxed_answer(text) == 'x'
  assert boxed_answer(text, compat=True) == 'guess'
  assert boxed_answer(r'<think>\boxed{guess}</think> nothing') == 'guess'
  assert boxed_answer(r'<think>a</think>\boxed{1}<think>\boxed{2}</think>\boxed{3} </think> \boxed{4}') == '4'
  assert boxed_answer('nothing') is None


def test_compat_counts_escaped_braces_and_one_spelling():
  assert boxed_answer(r'\boxed{a \} b}', compat=True) == 'a \\'
  assert boxed_answer(r'\boxed {x}', compat=True) is None
  assert boxed_answer(r'\boxed{x', compat=True) is None


@pytest.mark.parametrize('unit', [r'\boxed{', '{', '}', '</think>', r'\boxed{x}', '\\', '\x00\ud800'])
def test_a_megabyte_of_anything_is_quick(unit):
  text = unit * (1_000_000 // len(unit))
  with processor_seconds(10):
    boxed_answer(text), boxed_answer(text, compat=True)
