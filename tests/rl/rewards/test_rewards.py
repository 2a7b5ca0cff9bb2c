"""Verifiers on answers written to confuse, length, and a guard around functions that fail."""

import os
import subprocess
import sys
import threading

import numpy as np
import pytest

from rl import rewards
from rl.query import Query
from rl.rewards import Length, Reward, Scorer, boxed, boxed_and_format, think_format


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


def test_symbolic_equality_under_a_time_limit():
  queries = [Query([], answer=r'\frac{\sqrt2}{2}'), Query([], answer='y')]
  example = Query([], answer='2', solution=r'\boxed{2}')
  with Scorer('boxed_symbolic', example, seconds=60, workers=1) as scorer:
    got = scorer(queries, [[r'\boxed{\frac{1}{\sqrt2}}'], [r'\boxed{x}']])
  assert got.totals.tolist() == [[1.0], [0.0]] and got.right.tolist() == [[1.0], [0.0]] and not got.lost


def test_overlong_by_the_published_figures():
  """TreePO (arXiv 2508.17445): limit 7168, buffer 512."""
  got = rewards.overlong(np.array([1, 6656, 6784, 7168, 9000]), 7168, 512)
  np.testing.assert_allclose(got, [0, 0, -0.25, -1, -1])
  with pytest.raises(ValueError, match='buffer=0'):
    rewards.overlong(np.array([1]), 10, 0)


def test_responses_that_were_cut_leave_the_loss():
  mask = np.arange(4) < np.array([[4, 2], [3, 4]])[..., None]
  got = rewards.without_cut(mask, np.array([[False, True], [True, False]]))
  assert got.sum(-1).tolist() == [[0, 2], [3, 0]]


@pytest.mark.parametrize('options', [{'buffer': -1}, {'factor': 0.0}, {'factor': float('nan')}])
def test_an_impossible_length_option_is_refused(options):
  with pytest.raises(ValueError, match=next(iter(options))):
    Length(**options)
  with pytest.raises(ValueError, match='buffer=9'):
    Length(buffer=9).check(8)


ASK = Query([{'role': 'user', 'content': '3 + 4?'}], answer='7')


def worth(query, response):
  """A reward function with every vice."""
  if response == 'hang':
    threading.Event().wait()
  if response == 'raise':
    raise KeyError('inside')
  if response == 'die':
    os._exit(3)
  return {'nan': float('nan'), 'none': None, 'other': {'a': 1.0}}.get(response, 0.5)


@pytest.mark.slow
def test_a_reward_that_raises_hangs_or_dies_costs_its_response_alone():
  texts = ['fine', 'raise', 'hang', 'fine', 'die', 'nan', 'none', 'other', 'fine']
  with Scorer(worth, ASK, seconds=1.0, otherwise=None) as scorer:
    got = scorer([ASK, ASK], [texts, ['fine'] * len(texts)])
    again = scorer([ASK], [['fine', 'raise']])
  fine = [t == 'fine' for t in texts]
  assert got.names == ('reward',) and got.right is None
  assert got.valid.tolist() == [fine, [True] * 9]
  assert got.rewards[..., 0].tolist() == [[0.5 * f for f in fine], [0.5] * 9]
  lost = {g: reason for (_, g), reason in got.lost.items()}
  assert set(lost) == {1, 2, 4, 5, 6, 7}
  assert lost[1] == "KeyError: 'inside'" and 'within 1 s' in lost[2] and 'nan' in lost[5] and 'None' in lost[6]
  assert lost[7] == 'components a: expected reward'
  assert again.valid.tolist() == [[True, False]]


def test_a_lost_response_may_count_as_wrong():
  with Scorer(worth, ASK, workers=1, otherwise=-1.0) as scorer:
    got = scorer([ASK], [['raise', 'fine']])
  assert got.totals.tolist() == [[-1.0, 0.5]] and got.valid.all() and list(got.lost) == [(0, 0)]


def test_a_function_of_a_notebook_cell_is_a_reward_in_one_line():
  digit = '7'
  with Scorer(lambda query, response: float(digit in response), ASK, workers=1) as scorer:
    assert scorer([ASK], [['17', '8']]).totals.tolist() == [[1.0, 0.0]]


def by_rank(query, responses):
  """Shorter is better, within a group."""
  order = np.argsort(np.argsort([len(r) for r in responses]))
  return [{'rank': 1.0 - k / len(responses)} for k in order]


def test_several_rewards_are_named_and_weighted_and_may_see_the_group():
  short = Reward(by_rank, {'rank': 0.5}, group=True)
  given = {'form': ('boxed_and_format', 2.0), 'short': short, 'seven': lambda query, response: '7' in response}
  with Scorer(given, Query([], answer='7', solution=r'\boxed{7}'), workers=1) as scorer:
    got = scorer([ASK, ASK], [[r'\boxed{7}', 'no'], ['x', r'<think>7</think>\boxed{8}']])
  weights = dict(zip(got.names, got.weights.tolist()))
  assert weights == pytest.approx({'form.answer': 1.8, 'form.format': 0.2, 'short.rank': 0.5, 'seven': 1.0})
  column = {name: got.rewards[..., k].tolist() for k, name in enumerate(got.names)}
  assert column['form.answer'] == [[1, 0], [0, 0]] and column['form.format'] == [[0, 0], [0, 1]]
  assert column['short.rank'] == [[0.5, 1.0], [1.0, 0.5]] and column['seven'] == [[1, 0], [0, 1]]
  assert got.right.tolist() == [[1, 0], [0, 0]]  # by the one reward that has a notion of right
  longer = got.add('overlong', rewards.overlong(np.array([[5, 1], [1, 3]]), 5, 4))
  np.testing.assert_allclose(longer.totals, got.totals + [[-1, 0], [0, -0.5]], atol=1e-6)


@pytest.mark.parametrize('name', rewards.REWARDS)
def test_a_named_reward_says_what_is_right(name):
  example = Query([], answer='7', solution='7' if name == 'exact_match' else r'<think>3+4</think>\boxed{7}')
  with Scorer(name, example, workers=1, seconds=60) as scorer:
    got = scorer([example], [[example.solution, 'eight']])
    assert scorer.right([example], [[example.solution, 'eight']]).tolist() == [[True, False]]
  assert got.totals.tolist() == [[1.0, 0.0]] and got.right.tolist() == [[1.0, 0.0]]
  assert rewards.REWARDS[name].meaning


def broken(query, response):
  """Fails on every input."""
  return query.solution.missing


@pytest.mark.parametrize(
  'given,names',
  [
    ('boxd', 'boxd'),
    (3, 'a function'),
    ({}, 'rewards='),
    ((worth, 'heavy'), 'heavy'),
    (broken, 'missing'),
    ((lambda q, r: {'a': 1.0}, {'b': 1.0}), 'components a: expected those that have a weight, b'),
    ({'one': 'boxed', 'other': 'exact_match'}, '2 of them say what is right'),
    (threading.Lock().acquire, 'another process'),
  ],
)
def test_a_reward_that_cannot_be_used_stops_before_the_run(given, names):
  with pytest.raises(ValueError, match=names):
    Scorer(given, ASK, workers=1)


@pytest.mark.parametrize('options', [{'seconds': 0}, {'workers': 0}])
def test_an_impossible_limit_is_refused(options):
  with pytest.raises(ValueError, match=next(iter(options))):
    Scorer(worth, ASK, **options)


def test_a_process_that_computes_rewards_loads_no_jax():
  code = 'import sys, rl.rewards.guards.worker, rl.rewards; assert "jax" not in sys.modules'
  subprocess.run([sys.executable, '-c', code], check=True)


def test_a_script_without_a_main_guard_may_ask_for_rewards(tmp_path):
  """Each worker process would run the script from its top again if it were spawned the usual way."""
  script = tmp_path / 'mine.py'
  script.write_text(
    'from rl.query import Query\n'
    'from rl.rewards import Scorer\n'
    'print("started")\n'
    'def mine(query, response): return len(response)\n'
    'with Scorer(mine, Query([], answer="7"), workers=1) as scorer:\n'
    '  print(scorer([Query([])], [["abc"]]).totals)\n'
  )
  path = os.environ | {'PYTHONPATH': os.pathsep.join(sys.path)}
  done = subprocess.run([sys.executable, script], env=path, capture_output=True, text=True, check=True)
  assert done.stdout.splitlines() == ['started', '[[3.]]']
