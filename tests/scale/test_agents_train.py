"""Learning to use a tool on several devices and processes is learning on one, with a sandbox in each process."""

import json
import textwrap

import numpy as np
import pytest

from tests.scale.processes import join, spawn

PROGRAM = textwrap.dedent("""
  import dataclasses, os, pathlib, sys
  from core import mesh
  many = int(os.environ['PROCESSES'])
  if many > 1:
    mesh.start(os.environ['COORDINATOR'], many, int(os.environ['PROCESS']))
  from agents import train
  from agents.rollout import trajectory
  from core.conversations.tool_calls import Call
  from rl.learning import reinforce, supervised
  from rl.rewards import Reward
  # An untrained policy writes no calls and no right answers: its turns are read as calls, some of its ends as right.
  trajectory.parse = lambda text, most: [Call('python', {'code': f'print({len(text)})'})]
  def chance(query, response):
    return float(not isinstance(response, str) and sum(len(turn.text) for turn in response.turns) % 3 == 0)
  train.REWARDS['exact'] = Reward(chance, right=chance)
  steps = []
  for phase in (supervised, reinforce):
    make = phase.make_step
    phase.make_step = lambda *a, make=make, **k: steps.append(make(*a, **k)) or steps[-1]
  smoke = train.CONFIGS['smoke']
  train.main(dataclasses.replace(smoke, updates=2, accumulate=2, eval_every=1), pathlib.Path(sys.argv[1]))
  sizes = [s._cache_size() for s in steps]
  assert sizes[0] == 1 and sizes[1] <= 3, sizes  # demonstrations; updates of 8, 4 and 2 rows, in all stages
""")
# Sampled tokens and what tools say to them must agree exactly, sums of floats nearly.
EXACT = ('reward', 'tokens', 'turns', 'calls', 'calls_failed', 'roc_groups', 'heldout_accuracy', 'stage')
CLOSE = {'loss': 1e-4, 'entropy': 1e-4, 'grad_norm': 1e-3, 'sampler_gap': 1e-4}


def _run(folder, **options):
  join(spawn(PROGRAM, str(folder), **options), limit=900)
  return [json.loads(line) for line in (folder / 'metrics.jsonl').read_text().splitlines()]


@pytest.mark.slow
def test_four_devices_and_two_processes_train_as_one(tmp_path):
  one = _run(tmp_path / 'one')
  assert [m['stage'] for m in one] == [1, 1, 2, 3]
  assert all(m['roc_groups'] and m['calls'] and m['grad_norm'] and not m['calls_harness'] for m in one)
  for name, options in (('devices', {'devices': 4}), ('processes', {'count': 2})):
    other = _run(tmp_path / name, **options)
    for key in (*EXACT, *CLOSE):
      tolerance = CLOSE.get(key, 1e-6)
      np.testing.assert_allclose(
        [m[key] for m in other], [m[key] for m in one], rtol=tolerance, atol=tolerance, err_msg=f'{name} {key}'
      )
