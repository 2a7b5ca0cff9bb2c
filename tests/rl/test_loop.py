"""`rl.run` and its phases: one call from a reward to a trained policy, and what each option changes."""

import dataclasses
import json

import jax
import numpy as np
import pytest

import rl
from core import mesh
from core.params import path_name
from core.training.optim import Optim
from core.training.run import Run
from rl import policy as policies
from rl.configs import Training
from rl.learning.reinforce import Updater, reinforce
from rl.learning.schedule import Progress, Schedule, Stage
from rl.loop import prompt_limit, settings, training, updating_of
from rl.losses import RULES, Kl
from rl.policy import ANY_SLOTS
from rl.rollout.collect import Collected
from rl.rollout.pipeline import Sequential
from tests.rl.groups import made_up

ONE = mesh.make(devices=jax.devices()[:1])
PLAIN = Optim(lr=1e-2, schedule='constant')
SMALL = Training(prompts=4, group=2, optim=PLAIN, eval_every=2, save_every=2)
SLOTS = ANY_SLOTS._replace(response=3)


@pytest.fixture(scope='module')
def made():
  return policies.load('tiny-text', ONE, seed=2)


def copy(weights):
  return jax.tree.map(lambda x: x.copy(), weights)


def groups_of(p, n, **changes):
  prompts = [p.prompt([{'role': 'user', 'content': f'question {i}'}]) for i in range(n)]
  return [made_up(x, None, 2, 3, number=i, **changes) for i, x in enumerate(prompts)]


class Scripted(Sequential):
  """A source whose rollouts are given; it notes the weights that would have sampled them."""

  def __init__(self, rollouts):
    self.rollouts, self.seen, self.asked = rollouts, [], []

  def collect(self, weights, stale, step, start, more):
    self.seen.append(jax.tree.map(np.array, weights))
    self.asked.append(start)
    return self.rollouts[step], ()

  def look(self, weights, evaluate):
    return evaluate()


def rollout_of(groups, spare=None, start=0, exhausted=False):
  metrics = {'reward': np.float32(0), 'tokens': np.float32(24)}
  return Collected(groups, (groups or [spare])[0], len(groups), metrics, start + 4, exhausted=exhausted)


def reinforced(made, rollouts, folder, config=SMALL, stages=None, only=None, hard=None, tokens=0):
  """(weights, averaged weights, the source, metrics by step) of a run on given rollouts."""
  p, weights = made
  source, progress = Scripted(rollouts), Progress(only)
  stages = stages or [Stage(len(rollouts), None)]
  updating = updating_of(config, p, len(rollouts), 'shared', SLOTS)
  updater = Updater(updating, copy(weights), ONE)
  run = Run(folder, {}, every=1)
  last, average = reinforce(
    updater,
    Schedule(stages),
    source,
    progress,
    run,
    ONE,
    hard=hard,
    look=lambda: {'heldout_accuracy': 0.5},
    eval_every=2,
    tokens=tokens,
  )
  lines = [json.loads(line) for line in (folder / 'metrics.jsonl').read_text().splitlines()]
  return last, average, source, lines, updater, progress


def moved(a, b):
  names = [path_name(path) for path, _ in jax.tree.leaves_with_path(a)]
  return {n for n, x, y in zip(names, jax.tree.leaves(a), jax.tree.leaves(b)) if (np.asarray(x) != np.asarray(y)).any()}


@pytest.mark.slow
def test_reward_trains_the_weights_that_it_is_to_train(made, tmp_path):
  config = dataclasses.replace(SMALL, updates=2, trainable=r'blocks\..*')
  rollout = rollout_of(groups_of(made[0], 4))
  last, _, source, lines, *_ = reinforced(made, [rollout, rollout], tmp_path, config)
  names = {path_name(path) for path, _ in jax.tree.leaves_with_path(made[1])}
  after = moved(made[1], last)
  assert after == {name for name in names if name.startswith('blocks.')}
  assert not moved(made[1], source.seen[0]) and moved(made[1], source.seen[1])
  assert [m['updates'] for m in lines] == [2, 2] and 'heldout_accuracy' in lines[1]


@pytest.mark.slow
def test_a_run_ends_once_its_tokens_are_sampled_also_when_it_was_stopped_before(made, tmp_path):
  rollouts = [rollout_of(groups_of(made[0], 1))] * 4  # of 24 tokens each
  stopped = reinforced(made, rollouts[:2], tmp_path, tokens=60)
  resumed = reinforced(made, rollouts, tmp_path, tokens=60)
  assert [len(lines) for *_, lines, _, _ in (stopped, resumed)] == [2, 3]
  assert resumed[-1].sampled == 72


@pytest.mark.slow
def test_the_number_of_groups_is_data_and_makes_no_new_programs(made, tmp_path):
  """Rollouts of 4, 3, 1 and 2 groups; those of one bucket share a program, and padding changes no gradient."""
  every = groups_of(made[0], 4)
  rollouts = [rollout_of(every[:n]) for n in (4, 3, 1, 2, 4, 1)]
  *_, lines, updater, progress = reinforced(made, rollouts, tmp_path / 'run')
  assert [m['weight'] for m in lines] == [24, 18, 6, 12, 24, 6] and progress.next == 4
  assert updater._step._cache_size() == 3  # of 4, 2 and 1 groups
  alone = reinforced(made, [rollout_of(every[:3])], tmp_path / 'padded')[3]
  exact = dataclasses.replace(SMALL, prompts=3)
  unpadded = reinforced(made, [rollout_of(every[:3])], tmp_path / 'exact', exact)[3]
  for key in ('loss', 'grad_norm', 'entropy'):
    np.testing.assert_allclose(alone[0][key], unpadded[0][key], rtol=1e-5)


@pytest.mark.slow
def test_more_groups_than_asked_for_make_more_updates(made, tmp_path):
  lines = reinforced(made, [rollout_of(groups_of(made[0], 9))], tmp_path)[3]
  assert lines[0]['updates'] == 3


@pytest.mark.slow
def test_a_solved_task_ends_the_run_and_a_resumed_one_there_too(made, tmp_path):
  first = groups_of(made[0], 4)
  rollouts = [rollout_of(first), rollout_of([], first[0], 4, exhausted=True), rollout_of(first, start=8)]
  last, _, source, lines, _, progress = reinforced(made, rollouts, tmp_path)
  assert len(source.seen) == 2 and progress.solved and [m['step'] for m in lines] == [1, 2] and 'loss' not in lines[1]
  again, _, source, same, *_ = reinforced(made, rollouts, tmp_path)
  assert not source.seen and same == lines and not moved(last, again)


@pytest.mark.slow
def test_a_rollout_without_a_group_changes_nothing(made, tmp_path):
  first = groups_of(made[0], 4)
  *_, source, lines, _, _ = reinforced(made, [rollout_of([], first[0]), rollout_of(first)], tmp_path)
  assert not moved(*source.seen) and lines[0]['skipped'] == 1 and 'loss' in lines[1]


def test_averaged_weights_follow_every_update(made, tmp_path):
  config = dataclasses.replace(SMALL, ema=0.75, export='average')
  rollout = rollout_of(groups_of(made[0], 4))
  last, average, source, *_ = reinforced(made, [rollout, rollout], tmp_path, config)
  want = jax.tree.map(lambda a, b, c: 0.75 * (0.75 * a + 0.25 * b) + 0.25 * c, made[1], source.seen[1], last)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), average, want)


def test_an_advantage_of_ones_own_is_what_the_update_follows(made, tmp_path):
  """One that finds nothing better than anything else moves no weight."""
  rollout = rollout_of(groups_of(made[0], 4))
  seen = []

  def nothing(scores):
    seen.append(scores.rewards.shape)
    return 0 * scores.totals

  config = settings(SMALL, {}, nothing, None)[0]
  last = reinforced(made, [rollout], tmp_path, config)[0]
  assert seen == [(4, 2, 1)] and not moved(made[1], last)
  with pytest.raises(ValueError, match='advantage=7: expected one of grpo'):
    settings(None, {}, 7, None)


@pytest.mark.slow
@pytest.mark.parametrize('where', ['loss', 'reward'])
def test_a_reference_policy_holds_the_policy_back(made, where, tmp_path):
  rollout = rollout_of(groups_of(made[0], 4))
  distances = []
  for coef in (0.0, 5.0):
    rule = dataclasses.replace(RULES['dapo'], kl=Kl(coef, 'k1' if where == 'reward' else 'k3', where))
    config = dataclasses.replace(SMALL, rule=rule)
    *_, lines, _, _ = reinforced(made, [rollout] * 3, tmp_path / str(coef), config)
    distances.append(lines)
  assert distances[0][-1]['loss'] != distances[1][-1]['loss']
  if where == 'loss':
    kls = [m['kl'] for m in distances[1]]
    assert kls[0] == pytest.approx(0, abs=1e-5) and kls[-1] > 0


@pytest.mark.slow
def test_stages_reset_the_optimiser_and_draw_from_hard_queries(made, tmp_path):
  rollout = rollout_of(groups_of(made[0], 4))
  stages = [Stage(1, None), Stage(1, None, tries='tries', tried=9, reset=True), Stage(1, None)]
  onlies = []

  def hard(stage):
    onlies.append(stage.tried)
    return [3, 5]

  *_, lines, _, progress = reinforced(made, [rollout] * 3, tmp_path, stages=stages, only=[1], hard=hard)
  assert [m['stage'] for m in lines] == [1, 2, 3] and onlies == [9] and progress.only is None


@pytest.mark.parametrize(
  'options,message',
  [
    ({'lr': 1}, 'lr: expected fields of Training'),
    ({'export': 'average'}, 'ema above 0'),
    ({'top_p': 0.0}, 'top_p'),
    ({'trainable': '('}, 'not a regular expression'),
    ({'reward_seconds': float('nan')}, 'reward_seconds=nan'),
    ({'group': 1}, 'group=1'),
  ],
)
def test_an_impossible_option_is_refused_by_name(options, message):
  with pytest.raises(ValueError, match=message):
    training(None, options, None, None)
  with pytest.raises(ValueError, match="rule='trpo': expected one of ppo"):
    training(None, {}, None, 'trpo')


def test_arguments_of_a_run_are_its_options_or_numbers():
  config, extra = settings(SMALL, {'steps': 7, 'max_new': 5, 'prompts': 8}, 'rloo', 'gspo')
  assert (config.prompts, config.group, config.advantage, config.rule) == (8, 2, 'rloo', RULES['gspo'])
  assert (extra.steps, extra.response_slots.response, extra.evaluation.plan.draw.max_new) == (7, 5, 5)
  with pytest.raises(ValueError, match='dynamic=True selects'):
    settings(SMALL, {'dynamic': True, 'select': len}, None, None)


def test_responses_that_leave_no_space_for_a_prompt_are_refused(made):
  with pytest.raises(ValueError, match='responses of 1024 tokens leave no space'):
    prompt_limit(made[0], SMALL, 1024, 0)
  assert prompt_limit(made[0], SMALL, 24, 0) == 1000 and prompt_limit(made[0], SMALL, 24, 64) == 64


@pytest.mark.slow
def test_a_reward_of_ones_own_trains_a_policy_in_one_call(tmp_path):
  wanted = rl.run(
    'tiny-text',
    ['Say something.', 'Anything else?', 'And now?'],
    rewards=lambda query, response: sum(c == '7' for c in response) / 4,
    workdir=tmp_path,
    steps=30,
    prompts=8,
    max_new=4,
    eval_every=15,
  )
  assert wanted.before.measure == 'reward' and wanted.after.accuracy > wanted.before.accuracy + 0.3
  assert json.loads((tmp_path / 'results.json').read_text()) == wanted.results
  assert (tmp_path / 'reward.png').stat().st_size > 5000 and 'Say something.' in (tmp_path / 'report.html').read_text()
  p, _ = policies.load(tmp_path / 'model', ONE)
  assert p.stops == wanted.policy.stops
