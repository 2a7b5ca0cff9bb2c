"""Resampling on correct: the counts of the released code, the scores, and the three ways of choosing."""

import collections

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.rollout.penalties import (
  error_penalty,
  form_penalty,
  penalty,
  released_error_penalty,
  released_form_penalty,
)
from agents.rollout.roc import counts, resample, select
from agents.rollout.tools import Response
from agents.rollout.trajectory import Trace, Turn


def trace(*texts, statuses=()):
  """A conversation of these turns; `statuses` of its calls, all in the first turn."""
  turns = [Turn(text) for text in texts]
  turns[0] = Turn(texts[0], tuple(Response('error' if s == 'ok' else 'fine', s) for s in statuses))
  return Trace(turns, 'final')


@pytest.mark.parametrize(
  'right,expected',
  [
    (1, 1),
    (2, 2),
    (3, 2),
    (4, 2),
    (5, 2),
    (6, 3),
    (7, 4),
    (8, 4),
    (15, 8),
    (16, 8),
    (17, 8),
    (29, 14),
    (30, 14),
    (31, 15),
  ],
)
def test_how_many_of_32_are_kept(right, expected):
  """Half, rounded half to even, except at the ends, where at least two of each kind stay if they are there."""
  for reference in (False, True):
    assert counts(right, 32 - right, 16, reference=reference) == (expected, 16 - expected)


def test_counts_at_the_edges():
  assert counts(9, 7, 16) == (9, 7)  # nothing to leave out
  assert counts(3, 4, 16) == (0, 0)  # too few
  assert counts(1, 2, 2) == (1, 2)  # one of each is below the least of both: all stay
  assert counts(5, 5, 5) == (2, 3)
  with pytest.raises(ValueError, match='rounding keeps'):
    counts(7, 7, 7, reference=True)  # 3.5 twice rounds to 4 twice
  assert counts(7, 7, 7) == (4, 3)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(4, 40))
def test_counts_add_up_and_take_no_more_than_there_is(right, wrong, keep):
  kept_right, kept_wrong = counts(right, wrong, keep)
  if right + wrong < keep:
    assert kept_right == kept_wrong == 0
  else:
    assert kept_right + kept_wrong == keep
    assert 0 <= kept_right <= right and 0 <= kept_wrong <= wrong
    assert kept_right > 0 and kept_wrong > 0  # a group keeps its contrast


def test_errors_are_counted_by_status_not_by_the_word():
  assert error_penalty(trace('a')) == 0.5
  assert error_penalty(trace('a', statuses=['ok', 'ok'])) == 0.0  # its text says "error"
  failing = ['error', 'timeout', 'undecodable', 'unknown_tool', 'exception', 'harness', 'memory', 'output']
  for status in failing:
    assert error_penalty(trace('a', statuses=[status, 'ok'])) == 0.5
  assert error_penalty(trace('a', statuses=failing)) == 1.0


@pytest.mark.parametrize(
  'texts,expected',
  [
    (['<answer>4</answer>'], 0.0),
    (['no answer'], 1.0),
    (['x', 'y', '<answer>4</answer>'], 0.0),
    (['<answer>4</answer>', '<answer>4</answer>'], 0.5),
    (['<answer>1</answer>' * 3], 1.0),
    (['x', 'y', 'z', '<answer>1</answer><answer>2</answer>'], 0.25),
    (['<answer>4'], 1.0),
    (['4</answer>'], 1.0),
    (['</answer>4<answer>'], 1.0),
    (['<answer><answer>4</answer></answer>'], 1.0),
  ],
)
def test_form(texts, expected):
  assert form_penalty(trace(*texts)) == expected


def test_answers_in_tool_output_do_not_count_as_the_models():
  t = trace('a', '<answer>4</answer>', statuses=['ok'])
  t.turns[0] = Turn('a', (Response('<answer>9</answer>' * 5, 'ok'),))
  assert form_penalty(t) == 0.0 and penalty(t) == 0.0


RIGHT = [True] * 4 + [False] * 4
PENALTIES = [0.5, 0.0, 1.5, 0.25, 9, 9, 9, 9]


def test_the_cleanest_right_ones_stay():
  for mode in ('sorted', 'reference'):
    kept = select(RIGHT, PENALTIES, 4, seed=(0,), mode=mode)
    assert kept.tolist()[:2] == [1, 3] and len(kept) == 4
  assert select(RIGHT, PENALTIES, 4, seed=(5,), mode='reference').tolist() == [1, 3, 4, 5]
  assert select(RIGHT, PENALTIES, 4, seed=(5,), mode='off').tolist() == list(range(8))


def test_ties_and_wrong_ones_are_drawn_evenly_and_from_the_seed_alone():
  seen = collections.Counter()
  for n in range(400):
    kept = select(RIGHT, [0.0] * 8, 4, seed=(n, 7))
    assert kept.tolist() == select(RIGHT, [0.0] * 8, 4, seed=(n, 7)).tolist() and (kept < 4).sum() == 2
    seen.update(kept.tolist())
  assert min(seen.values()) > 150 and max(seen.values()) < 250  # 200 each expected


def test_the_papers_draw_prefers_the_clean_in_proportion():
  first = collections.Counter()
  for n in range(3000):
    kept = select([True, True, False, False], [0.0, 0.9, 0, 0], 2, seed=(n,), mode='paper')
    assert sum(k < 2 for k in kept) == 1 and len(kept) == 2
    first[int(kept[0])] += 1
  assert first[0] / 3000 == pytest.approx(10 / 11, abs=0.02)  # weights 1/0.1 and 1/1.0


@given(st.lists(st.booleans(), min_size=8, max_size=8), st.sampled_from(['sorted', 'paper']), st.integers(0, 99))
def test_a_mixed_group_keeps_exactly_what_is_asked_for(right, mode, seed):
  if all(right) or not any(right):
    return
  kept = select(right, [0.1] * 8, 4, seed=(seed,), mode=mode)
  assert len(set(kept.tolist())) == 4 and np.all(np.diff(kept) > 0)


def test_flat_groups_leave_and_rewards_stay():
  clean, slip = trace('a', '<answer>1</answer>', statuses=['ok']), trace('<answer>1</answer>', statuses=['error'])
  traces = [clean] * 4 + [slip, slip, clean, clean] + [slip] * 4
  rewards = np.array([[1, 1, 1, 1], [1, 1, 1, 0], [0, 0, 0, 0]], float)
  before = rewards.copy()
  groups = [traces[:4], traces[4:8], traces[8:]]
  choose = lambda groups, rewards, places, **mode: resample(groups, rewards, 2, seed=0, step=3, places=places, **mode)
  chosen = choose(groups, rewards, range(3))
  np.testing.assert_array_equal(rewards, before)
  assert [bool(kept) for kept in chosen.kept] == [False, True, False] and chosen.metrics['roc_groups'] == (1, 3)
  assert chosen.metrics['roc_errors_before'] == (2, 3) and 2 in chosen.kept[1]
  alone = choose(groups[1:2], rewards[1:2], [1])  # as the process that has only this group
  assert alone.kept[0] == chosen.kept[1]
  assert len(choose(groups, rewards, range(3), mode='off').kept[1]) == 4


def test_the_released_penalties_are_counted_on_the_text():
  said = trace('a', statuses=['ok', 'timeout'])  # texts: "error" and "fine"
  assert released_error_penalty(said) == 0.5 and released_error_penalty(trace('a')) == 0.5
  assert released_error_penalty(trace('a', statuses=['timeout'])) == 0.0  # a failure that does not say "error"
  answered = '<answer>1</answer>'
  assert released_form_penalty(trace(answered)) == 1.0  # the only header is in the prompt: no turn
  assert released_form_penalty(trace('a', answered)) == 0.0
  assert released_form_penalty(trace(answered, 'a', answered)) == 0.5
  cut = Trace([Turn('a'), Turn(answered)], 'length')
  assert released_form_penalty(cut) == 1.0  # the last turn has no end mark
  printed = Trace([Turn('a', (Response(answered, 'ok'),)), Turn('b'), Turn(answered)], 'final')
  assert released_form_penalty(printed) == 0.5 and form_penalty(printed) == 0.0  # tool output counts


def test_reference_resamples_by_the_released_penalties():
  loud = trace('<answer>1</answer>', statuses=['ok'])  # its text says "error"
  single = [[loud, trace('x'), trace('x'), trace('x')]]
  errors = lambda mode: resample(single, np.array([[1.0, 0, 0, 0]]), 2, seed=0, step=0, places=[0], mode=mode).metrics
  assert errors('reference')['roc_errors_before'] == (1.0, 1) and errors('sorted')['roc_errors_before'] == (0.0, 1)
