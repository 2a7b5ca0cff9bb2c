"""Fine-tuning InternVL over two processes is fine-tuning on one."""

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
  from core.training.optim import Optim
  from internvl import train
  config = dataclasses.replace(train.CONFIGS['tiny'], batch=4, steps=6, accumulate=2, heldout_rows=4,
                               optim=Optim(lr=3e-3))
  train.main(config, pathlib.Path(sys.argv[1]))
""")


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path):
  losses = {}
  for many in (1, 2):
    workdir = tmp_path / str(many)
    out = join(spawn(PROGRAM, str(workdir), count=many), limit=900)
    assert 'of 4 answers exact' in out[0][0]
    losses[many] = [json.loads(line)['loss'] for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
    assert (workdir / 'model' / 'model.safetensors').exists()
  assert len(losses[1]) == 6 and losses[1][-1] < losses[1][0]
  np.testing.assert_allclose(losses[2], losses[1], rtol=1e-5)
