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
  from agents.rollout.protocol import Call
  # An untrained policy writes no calls and no right answers: its turns are read as calls, some of its ends as right.
  trajectory.parse = lambda text, most: [Call('python', {'code': f'print({len(text)})'})]
  train.reward = lambda trace, answer: float(sum(trace.ids) % 3 == 0)
  make, steps = train.make_step, []
  train.make_step = lambda *a, **k: steps.append(make(*a, **k)) or steps[-1]
  smoke = train.CONFIGS['smoke']
  train.main(dataclasses.replace(smoke, updates=2, accumulate=2, eval_every=1), pathlib.Path(sys.argv[1]))
  assert [s._cache_size() for s in steps] == [1, 1]  # demonstrations, and all updates of all stages
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
