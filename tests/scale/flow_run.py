"""A short Pref-GRPO run with a judge that keeps its replies, as a program: what it compared and what it learned.

    python -m tests.scale.flow_run FOLDER STOP

Under jax.distributed with the variables of `tests.scale.processes`. STOP: the process is killed at that question to the
judge; 0: it is not. Process i writes FOLDER.compared.i.npz, FOLDER.replies.i and FOLDER.asked.i.
"""

import dataclasses
import os
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np

import rl
from core import mesh
from rl.advantages import ADVANTAGES
from rl.configs import Training
from rl.evaluate import Evaluation
from rl.flow import mmdit
from rl.flow.judges.chat import ChatJudge
from rl.flow.policy import FlowPolicy, PathOptions, Paths
from rl.flow.toy import digits
from rl.flow.toy.words import Words
from rl.losses import RULES
from rl.rewards import Reward
from rl.rewards.pairwise import WEIGHTS, Pairwise

CONFIG = mmdit.Config(channels=1, heads=2, head_dim=4, text=8, pooled=8, joint=2, table=4, table_extent=4)
OPTIONS = PathOptions(steps=5)
TRAINING = Training(
  prompts=16,
  group=4,
  updates=2,
  rule=RULES['pref_grpo'],
  ema=0.9,
  save_every=1,
  eval_every=9,
  export='average',
)


@dataclasses.dataclass
class Darker:
  """A model that finds more ink better, in the words of the judge's template. Ends the process after `stop` answers."""

  log: pathlib.Path
  stop: int
  asked: int = 0

  def __call__(self, messages) -> str:
    self.asked += 1
    if self.asked == self.stop:
      os._exit(9)
    with self.log.open('a') as file:
      file.write('asked\n')
    *images, _ = messages[-1]['content']
    first, second = (int(np.asarray(part['image'], np.int64).sum()) for part in images)
    return f'<answer>Image {1 if first > second else 2} is better</answer>' if first != second else 'equal'


class Recorded:
  """GDPO's advantages; keeps the rewards and advantages of all groups, and GRPO's of this process's share."""

  def __init__(self):
    self.rollouts = []

  def __call__(self, scores):
    gain = ADVANTAGES['gdpo'].compute(scores)
    own = slice(jax.process_index(), None, jax.process_count())
    local = jax.tree.map(lambda x: x[own], scores.replace(weights=None)).replace(weights=scores.weights)
    alone = ADVANTAGES['grpo'].compute(local)
    self.rollouts.append({'rewards': scores.rewards, 'gdpo': gain, 'grpo': alone})
    return gain


def draw(key):
  """Weights of which the velocity is not 0."""
  drawn = mmdit.init(key, CONFIG)
  return jax.tree.map(lambda x: x + 0.05 * jnp.cos(jnp.arange(x.size).reshape(x.shape)), drawn)


def policy_and_weights():
  """(policy, weights on the mesh of all devices)."""
  policy = FlowPolicy(CONFIG, OPTIONS, (8, 8, 1), Words(8, 8), digits.decode, rows=64)
  places = mesh.shardings(policy.spec(), mesh.make())
  weights = jax.jit(draw, out_shardings=places)(jax.random.key(0))
  return policy, weights


def main(folder: pathlib.Path, stop: int) -> None:
  """Three rollouts of two updates."""
  me = jax.process_index()
  log = folder.with_name(f'{folder.name}.asked.{me}')
  judge = ChatJudge(Darker(log, stop), 'darker', cache=str(folder.with_name(f'{folder.name}.replies.{me}')))
  reward = Reward(Pairwise(judge, workers=1), weights=WEIGHTS, group=True, direct=True)
  recorded = Recorded()
  rl.run(
    policy_and_weights(),
    digits.TASK,
    workdir=folder,
    rewards=reward,
    rollout=Paths(4),
    steps=3,
    max_new=OPTIONS.count,
    advantage=dataclasses.replace(ADVANTAGES['gdpo'], compute=recorded),
    evaluation=Evaluation(Paths(1, deterministic=True), None, 2, 2),
    config=TRAINING,
    claim={'run': 'of a test'},
  )
  columns = {name: np.stack([rollout[name] for rollout in recorded.rollouts]) for name in recorded.rollouts[0]}
  np.savez(f'{folder}.compared.{me}.npz', **columns)


if __name__ == '__main__':
  if int(os.environ['PROCESSES']) > 1:
    mesh.start(os.environ['COORDINATOR'], int(os.environ['PROCESSES']), int(os.environ['PROCESS']))
  main(pathlib.Path(sys.argv[1]), int(sys.argv[2]))
