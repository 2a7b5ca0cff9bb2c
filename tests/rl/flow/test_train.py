"""`rl.train` on a flow model: what a run writes, how a stopped one resumes, what a config refuses."""

import dataclasses
import json

import jax
import numpy as np
import pytest

import rl
from core import mesh
from core.files.tensors import Files
from rl import train
from rl.configs import Training
from rl.flow import mmdit
from rl.flow.configs import CONFIGS, FlowConfig, Preference
from rl.flow.policy import FlowPolicy, PathOptions, Paths
from rl.flow.toy import digits
from rl.flow.toy.words import Words
from rl.losses import RULES
from rl.rewards import Reward
from rl.rewards.pairwise import WEIGHTS, Pairwise

ONE = mesh.make(devices=jax.devices()[:1])
CONFIG = mmdit.Config(channels=1, heads=2, head_dim=4, text=8, pooled=8, joint=2, table=4, table_extent=4)
SMALL = Training(
  prompts=2, group=4, updates=2, rule=RULES['pref_grpo'], ema=0.9, save_every=1, eval_every=9, export='average'
)


@pytest.mark.parametrize(
  'change, message',
  [
    ({'preference': 0.0}, r'score=0\.0'),
    ({'preference': -1.0}, r'preference=-1\.0'),
    ({'group': 1}, 'group=1'),
    ({'group': 5, 'compare': Preference(opponents=3)}, r'opponents=3 in groups of 5: expected 2 to 4, an even number'),
    ({'rule': dataclasses.replace(RULES['pref_grpo'], kl=rl.losses.Kl(0.1, where='reward'))}, 'kl.where'),
  ],
)
def test_configs_that_cannot_be_are_refused(change, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(CONFIGS['flow_smoke'], **change)


@pytest.mark.slow
def test_a_smoke_run_leaves_a_model_results_and_grids(tmp_path):
  results = train.main(CONFIGS['flow_smoke'], tmp_path)
  assert results['before']['queries'] == 4 and 'accuracy' in results['after']
  lines = [json.loads(line) for line in (tmp_path / 'metrics.jsonl').read_text().splitlines()]
  assert len(lines) == 2
  for line in lines:
    assert line['ratio'] == 1 and line['clipped'] == 0  # one update from the weights that sampled
    assert line['sampler_gap_max'] < 1e-5 and line['reward/preference.win'] == pytest.approx(0.5)
  assert len(list((tmp_path / 'images').glob('*.png'))) == 4  # before, two looks, after
  assert 'data:image/png' in (tmp_path / 'report.html').read_text()
  assert Files(tmp_path / 'model', stem='diffusion_pytorch_model').tensors
  again = dataclasses.replace(CONFIGS['flow_smoke'], model=str(tmp_path / 'model'), pretraining=no_pretraining())
  assert train.main(again, tmp_path / 'more')['before']['queries'] == 4


def no_pretraining():
  return dataclasses.replace(FlowConfig().pretraining, steps=0)


class Stop(Exception):
  pass


@dataclasses.dataclass(frozen=True)
class Cut:
  """A plan that fails in one rollout."""

  plan: Paths
  at: int

  def __call__(self, sampler, ask):
    if ask.step == self.at:
      raise Stop
    return self.plan(sampler, ask)


def one_run(folder, judge, cut=-1):
  """The weights of three rollouts by a judge, averaged."""
  policy = FlowPolicy(CONFIG, PathOptions(steps=5), (8, 8, 1), Words(8, 8), digits.decode, rows=8)
  weights = mmdit.init(jax.random.key(0), CONFIG)
  weights = jax.tree.map(lambda x: x + 0.05, weights)
  reward = Reward(Pairwise(judge, workers=1), weights=WEIGHTS, group=True, direct=True)
  outcome = rl.run(
    (policy, jax.device_put(weights, mesh.shardings(policy.spec(), ONE))),
    digits.TASK,
    workdir=folder,
    rewards=reward,
    rollout=Cut(Paths(4), cut),
    steps=3,
    max_new=policy.options.count,
    evaluation=rl.loop.Evaluation(Paths(1, deterministic=True), None, 2, 2),
    config=SMALL,
    claim={'run': 'of this test'},
  )
  return outcome.weights


@pytest.mark.slow
def test_a_stopped_run_goes_on_bit_by_bit_with_its_averaged_weights(tmp_path):
  darker = lambda prompt, first, second: (
    'first' if digits.levels_of([first]).sum() > digits.levels_of([second]).sum() else 'second'
  )
  whole = one_run(tmp_path / 'whole', darker)
  with pytest.raises(Stop):
    one_run(tmp_path / 'cut', darker, cut=2)
  again = one_run(tmp_path / 'cut', darker)
  for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(again)):
    assert np.array_equal(np.asarray(a), np.asarray(b))
  assert (tmp_path / 'whole' / 'metrics.jsonl').read_bytes() == (tmp_path / 'cut' / 'metrics.jsonl').read_bytes()
