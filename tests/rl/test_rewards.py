"""Verifiers on answers written to confuse, length, and a guard around functions that fail."""

import time

import numpy as np
import pytest

from rl import rewards
from rl.rewards import Guard, boxed, boxed_and_format, think_format


@pytest.mark.parametrize(
  'answer, want',
  [
    (r'<think>3+4</think>\boxed{7}', 1),
    (r'<think>\boxed{7}</think> it is \boxed{ 07.0 }', 1),
    (r'\boxed{7}', 1),
    (r'<think>\boxed{7}</think> no, \boxed{8}', 0),
    ('7', 0),
    ('', 0),
    (r'\boxed{7', 0),
    (r'\boxed{}', 0),
    (r'\boxed{7 or 8}', 0),
    (r'\boxed{14/2}', 1),
    (r'\boxed{7}' * 50_000, 1),
  ],
)
def test_the_last_box_after_the_thoughts_counts(answer, want):
  assert boxed(answer, '7') == want


def test_a_missing_box_is_wrong_even_when_the_reference_is_none():
  assert boxed('no box', 'None') == 0.0


@pytest.mark.parametrize(
  'answer, want',
  [
    (r'<think>a</think>\boxed{7}', 1),
    (' <think>\na\n</think>\nso \\boxed{7}.\n', 1),
    (r'<think></think>\boxed{}', 1),
    (r'\boxed{7}', 0),
    (r'<think>\boxed{7}</think>', 0),
    (r'<think>a \boxed{7}', 0),
    (r'hm <think>a</think>\boxed{7}', 0),
    (r'<think>a</think><think>b</think>\boxed{7}', 0),
    (r'<think>a</think>\boxed{7', 0),
  ],
)
def test_form_is_a_think_block_then_a_box(answer, want):
  assert think_format(answer) == want


def test_right_and_well_formed_add_up():
  assert boxed_and_format(r'<think>a</think>\boxed{7}', '7') == pytest.approx(1.0)
  assert boxed_and_format(r'\boxed{7}', '7') == pytest.approx(0.9)
  assert boxed_and_format(r'<think>a</think>\boxed{8}', '7') == pytest.approx(0.1)


def test_symbolic_equality_in_a_guard():
  with Guard(rewards.boxed_symbolic, seconds=20, workers=1, otherwise=0.0) as guard:
    got = guard([(r'\boxed{\frac{1}{\sqrt2}}', r'\frac{\sqrt2}{2}'), (r'\boxed{x}', 'y')])
  assert got.values.tolist() == [1.0, 0.0] and not got.lost


def test_overlong_by_the_published_figures():
  """TreePO (arXiv 2508.17445): limit 7168, buffer 512."""
  got = rewards.overlong(np.array([1, 6656, 6784, 7168, 9000]), 7168, 512)
  np.testing.assert_allclose(got, [0, 0, -0.25, -1, -1])
  with pytest.raises(ValueError, match='buffer=0'):
    rewards.overlong(np.array([1]), 10, 0)


def worth(text):
  """A reward function with every vice."""
  if text == 'hang':
    time.sleep(60)
  if text == 'raise':
    raise KeyError('inside')
  if text == 'die':
    import os

    os._exit(3)
  return {'nan': float('nan'), 'none': None}.get(text, 0.5)


def test_a_reward_that_raises_hangs_or_dies_costs_its_sample_alone():
  texts = ['fine', 'raise', 'hang', 'fine', 'die', 'nan', 'none', 'fine']
  start = time.monotonic()
  with Guard(worth, seconds=1.0) as guard:
    got = guard([(t,) for t in texts])
    again = guard([('fine',), ('raise',)])
  assert time.monotonic() - start < 50
  fine = [t == 'fine' for t in texts]
  assert got.valid.tolist() == fine
  assert got.values.tolist() == [0.5 if f else 0.0 for f in fine]
  assert set(got.lost) == {1, 2, 4, 5, 6}
  assert got.lost[1] == "KeyError: 'inside'" and 'within 1 s' in got.lost[2] and 'nan' in got.lost[5]
  assert again.valid.tolist() == [True, False]


def test_a_lost_sample_may_count_as_wrong():
  with Guard(worth, workers=1, otherwise=-1.0) as guard:
    got = guard([('raise',), ('fine',)])
  assert got.values.tolist() == [-1.0, 0.5] and got.valid.all() and list(got.lost) == [0]


@pytest.mark.parametrize('options', [{'seconds': 0}, {'workers': 0}])
def test_an_impossible_guard_is_refused(options):
  with pytest.raises(ValueError, match=next(iter(options))):
    Guard(worth, **options)
