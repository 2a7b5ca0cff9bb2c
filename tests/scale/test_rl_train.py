"""Reinforcement learning on several devices and processes, and with rollouts ahead of the updates."""

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
  from rl import tasks, train
  from rl.learning import reinforce
  from rl.rewards import REWARDS, Reward
  # Something in which the answers of an untrained model to one prompt differ.
  before = Reward(lambda query, response: float(response < query.answer), right=REWARDS['exact_match'].right)
  tasks.TASKS['digits'] = dataclasses.replace(tasks.TASKS['digits'], rewards=before)
  folder, ahead, stop = pathlib.Path(sys.argv[1]), sys.argv[2] == 'ahead', int(sys.argv[3])
  config = dataclasses.replace(train.CONFIGS['smoke'], ahead=ahead, updates=4, steps=4 if ahead else 2, save_every=1,
                               eval_every=3, eval_queries=4, group=4, advantage='reinforce_pp')
  if sys.argv[2] == 'shared':
    config = dataclasses.replace(config, engine_processes=many, engine_mesh=mesh.Shape(model=2))
  make, steps, calls = reinforce.make_step, [], []
  def watched(*a, **k):
    steps.append(make(*a, **k))
    def run(*args):
      calls.append(1)
      if 0 < stop < len(calls):
        os._exit(9)
      return steps[0](*args)
    return run
  reinforce.make_step = watched
  train.main(config, folder)
  assert steps[0]._cache_size() == 1  # of all updates
""")


def _run(folder, mode='turn', *, devices=1, count=1, stop=0):
  join(spawn(PROGRAM, str(folder), mode, str(stop), devices=devices, count=count), limit=900, code=9 if stop else 0)
  return [json.loads(line) for line in (folder / 'metrics.jsonl').read_text().splitlines()]


# `tests/scale/test_agents_train.py` shows the same of the same loop in the slow suite.
@pytest.mark.long
def test_four_devices_and_two_processes_train_as_one(tmp_path):
  one = _run(tmp_path / 'one')
  assert all(m['grad_norm'] > 0.01 and m['reward'] > 0 for m in one)
  for name, options in (
    ('devices', {'devices': 4}),
    ('processes', {'count': 2}),
    ('one engine over processes', {'count': 2, 'mode': 'shared'}),
  ):
    other = _run(tmp_path / name, **options)
    close = {'reward': 0, 'response_length': 0, 'loss': 1e-5, 'entropy': 1e-5, 'grad_norm': 1e-4}
    for key, tolerance in close.items():
      np.testing.assert_allclose(
        [m[key] for m in other], [m[key] for m in one], rtol=tolerance, atol=tolerance, err_msg=f'{name} {key}'
      )


@pytest.mark.slow
def test_rollouts_ahead_are_one_update_old_and_survive_a_crash(tmp_path):
  whole = _run(tmp_path / 'whole', 'ahead', devices=2)
  assert [m['staleness'] for m in whole] == [0, 1, 1, 1]
  _run(tmp_path / 'cut', 'ahead', devices=2, stop=9)  # inside the third rollout's updates
  _run(tmp_path / 'cut', 'ahead', devices=2)
  for name in ('metrics.jsonl', 'results.json', 'model/model.safetensors'):
    assert (tmp_path / 'whole' / name).read_bytes() == (tmp_path / 'cut' / name).read_bytes(), name
