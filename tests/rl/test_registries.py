"""Every loss rule and every advantage trains a policy, from a prompt to an update; a new name is covered as it is."""

import dataclasses
import itertools
import json

import pytest

import rl
from core.engine import EngineSize
from core.training.optim import Optim
from rl.advantages import ADVANTAGES
from rl.losses import RULES
from rl.policy import Draw
from rl.rollout import Flat

MAX_NEW, GROUP = 4, 4


def forked(sampler, ask):
  """Flat groups whose last response calls itself a fork of the first: an advantage may look at lineage."""
  groups = Flat(Draw(MAX_NEW), GROUP)(sampler, ask)
  return [[*group[:-1], dataclasses.replace(group[-1], parent=0, segment=1)] for group in groups]


def together():
  """(rule, advantage): as many pairs as the longer registry has names, each name of both at least once."""
  count = max(len(RULES), len(ADVANTAGES))
  return list(itertools.islice(zip(itertools.cycle(RULES), itertools.cycle(ADVANTAGES)), count))


@pytest.mark.slow
@pytest.mark.parametrize('rule,advantage', together())
def test_a_rule_and_an_advantage_train(rule, advantage, tmp_path):
  rl.run(
    'tiny-text',
    ['Say something.', 'Anything else?'],
    rewards={
      'even': lambda query, response: 1.0 - len(response) % 2,
      'long': (lambda query, response: len(response), 0.1),
    },
    rollout=forked,
    rule=rule,
    advantage=advantage,
    workdir=tmp_path,
    steps=1,
    prompts=2,
    group=GROUP,
    max_new=MAX_NEW,
    optim=Optim(schedule='constant'),
    engine=EngineSize(slots=8, pages=64, chunk=64),
  )
  (line,) = map(json.loads, (tmp_path / 'metrics.jsonl').read_text().splitlines())
  assert abs(line['loss']) < 1e3 and 0 < line['grad_norm'] < 1e3
