"""Rollouts: which queries are asked, what rewards they get, and which of them are trained on."""

import dataclasses

import jax
import numpy as np
import pytest

from core import mesh
from core.engine import EngineSize
from rl import policy as policies
from rl.policy import Draw, Trajectory
from rl.query import Query
from rl.rewards import Length, Scored
from rl.rollout import Flat, Sampler
from rl.rollout.collect import Collector, QuerySource
from rl.rollout.dynamic import Cursor, mixed_groups, unsolved
from rl.tasks import Task

ONE = mesh.make(devices=jax.devices()[:1])
HOME = mesh.Share(ONE, ONE)


@pytest.fixture(scope='module')
def made():
  return policies.load('tiny-text', ONE, seed=4)


class Mute:
  """A sampler of which only the devices are asked."""

  home = HOME


def query(split, seed, index):
  """Query i: its right answer is i, and each third one is long."""
  return Query([{'role': 'user', 'content': 'x' * (200 if index % 3 == 2 else 3)}], answer=str(index))


def says(texts):
  """A plan whose response g to query number n is texts(n)[g]."""

  def plan(sampler, ask):
    tokens = lambda text: np.frombuffer(text.encode(), np.uint8).astype(np.int32)
    one = lambda x, t: Trajectory(x, tokens(t), np.ones(len(t), bool), np.zeros(len(t)), len(t) < 4, response=t)
    return [[one(x, t) for t in texts(n)] for n, x in zip(ask.numbers, ask.prompts)]

  return plan


class Judge:
  """A scorer without processes: right is the query's answer; a response 'lost' has no reward."""

  knows_right = True

  def __call__(self, queries, responses):
    right = np.array([[r == q.answer for r in rs] for q, rs in zip(queries, responses)], np.float32)
    lost = {(p, g): 'lost' for p, rs in enumerate(responses) for g, r in enumerate(rs) if r == 'lost'}
    valid = np.array([[r != 'lost' for r in rs] for rs in responses])
    return Scored(('reward',), np.ones(1, np.float32), right[..., None], valid, right, lost)

  def right(self, queries, responses):
    return self(queries, responses).right == 1


def collect(made, texts, *, start=0, longest=1000, prompts=4, only=None, **options):
  source = QuerySource(Task(query), made[0], 0, longest, only)
  return Collector(Judge(), prompts, **options)(Mute(), says(texts), source, step=0, start=start)


def test_rewards_go_to_the_query_they_answer(made):
  got = collect(made, lambda n: [str(n), 'no'], start=6)
  assert [g.number for g in got.groups] == [6, 7, 8, 9] and got.next == 10 and got.total == 4
  assert all(g.totals.tolist() == [1, 0] for g in got.groups)
  assert got.metrics['reward'] == 0.5 and got.metrics['reward_flat_groups'] == 0 and got.metrics['tokens'] == 12


def test_prompts_that_are_too_long_are_left_out_and_counted(made):
  got = collect(made, lambda n: [str(n), 'no'], longest=100)
  assert [g.number for g in got.groups] == [0, 1, 3, 4] and got.metrics['prompts_too_long'] == 1
  with pytest.raises(ValueError, match='0 of 256 prompts have at most 5 tokens'):
    collect(made, lambda n: ['', ''], longest=5)


def test_dynamic_sampling_continues_until_enough_groups_are_mixed(made):
  say = lambda n: [str(n), 'no'] if n % 2 else [str(n), str(n)]  # every other query is solved
  got = collect(made, say, start=6, select=mixed_groups, rounds=10)
  assert [g.number for g in got.groups] == [7, 9, 11, 13] and got.next == 14
  assert got.metrics['dynamic_rounds'] == 2 and got.metrics['dynamic_kept'] == 0.5
  solved = collect(made, lambda n: [str(n)] * 2, select=mixed_groups, rounds=3)
  assert (
    solved.groups == []
    and solved.total == 0
    and solved.exhausted
    and solved.next == 12
    and len(solved.spare.trajectories) == 2
  )


def test_a_lost_reward_costs_its_sample_alone(made):
  got = collect(made, lambda n: ['lost', str(n), 'no'])
  assert all(g.valid.tolist() == [False, True, True] for g in got.groups)
  assert got.metrics['reward_lost'] == np.float32(1 / 3) and got.metrics['reward'] == 0.5
  assert 'reward/reward' not in got.metrics  # a single component is the reward


def test_queries_of_a_choice_come_round_again(made):
  got = collect(made, lambda n: [str(n), 'no'], only=[10, 21], start=1)
  assert [g.query.answer for g in got.groups] == ['21', '10', '21', '10']


def test_length_costs_reward_near_the_limit(made):
  got = collect(made, lambda n: ['a', 'abc', 'abcd'], length=Length(buffer=2), limit=4)
  assert got.groups[0].totals.tolist() == [0, -0.5, -1] and got.groups[0].right.tolist() == [0, 0, 0]
  assert (got.metrics['reward/reward'], got.metrics['reward/length']) == (0, -0.5)
  assert got.metrics['response_cut'] == np.float32(1 / 3)


def test_hard_queries_are_those_not_right_in_every_try(made):
  said = {0: ['0', '0'], 1: ['1', 'no'], 2: ['no', 'no'], 3: ['3', '3']}
  source = QuerySource(Task(query), made[0], 0, 1000)
  assert unsolved(Mute(), source, Judge(), says(said.get), 4) == [1, 2]
  assert unsolved(Mute(), source, Judge(), says(lambda n: [str(n)]), 4) == [0, 1, 2, 3]


def test_engines_share_the_stream_without_overlap(made):
  """Two engines of one process each draw alternate numbers of one stream."""
  source = QuerySource(Task(query), made[0], 0, 1000)
  homes = [dataclasses.replace(HOME, index=i, count=2) for i in range(2)]
  numbers = [[n for n, _, _ in source.fitting(Cursor(3), 3, home)[0]] for home in homes]
  assert numbers == [[6, 8, 10], [7, 9, 11]]


@pytest.mark.slow
def test_a_sample_does_not_depend_on_the_batch_around_it(made):
  p, weights = made
  sampler = Sampler(p, weights, EngineSize(slots=4, pages=64, page_size=16, segment=4, chunk=32), HOME)
  source = QuerySource(Task(query), p, 0, 100)
  collector = Collector(Judge(), 4)
  plan = Flat(Draw(5), 2, seed=3)
  every = collector(sampler, plan, source, step=0, start=0).groups
  alone = Collector(Judge(), 1)(sampler, plan, source, step=7, start=3).groups[0]
  same = next(g for g in every if g.number == alone.number)
  for a, b in zip(same.trajectories, alone.trajectories):
    np.testing.assert_array_equal(a.tokens, b.tokens)
  narrow = Flat(Draw(5, top_k=1), 2, seed=3)
  first, second = collector(sampler, narrow, source, step=0, start=0).groups[0].trajectories
  assert first.tokens.tolist() == second.tokens.tolist()  # only one token may be drawn
