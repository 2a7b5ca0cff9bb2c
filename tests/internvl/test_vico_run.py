"""ViCO as runs of `internvl.train`: from a base folder to a Flash folder, interrupted and resumed."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

import internvl
from core.toy import panels
from core.training.optim import Optim
from internvl import train
from internvl.data import packing
from internvl.training.export import export
from internvl.training.start import processor_for

SMALL = {'batch': 2, 'steps': 4, 'save_every': 2, 'heldout_rows': 0, 'accumulate': 2, 'optim': Optim(lr=1e-3)}


class Stop(Exception):
  """Ends a run in the middle."""


@pytest.fixture
def base(tmp_path):
  """(folder of a small base model, its training data)."""
  processor = processor_for(train.CONFIGS['panels'])
  config = dataclasses.replace(internvl.CONFIGS['tiny'], image_token=processor.image_id)
  export(tmp_path / 'base', config, internvl.init(jax.random.key(0), config), processor)
  return str(tmp_path / 'base'), (panels.export(tmp_path / 'data', 'train', 0, 32),)


@pytest.mark.slow
def test_interrupted_runs_of_both_stages_end_the_same_bit_for_bit(base, tmp_path, monkeypatch):
  folder, data = base
  first = dataclasses.replace(train.CONFIGS['panels_consistency'], model=folder, data=data, **SMALL)
  train.main(first, tmp_path / 'first')
  second = dataclasses.replace(
    train.CONFIGS['panels_routing'], model=str(tmp_path / 'first' / 'model'), reference=folder, data=data, **SMALL
  )
  for name, config in (('first', first), ('second', second)):
    again = tmp_path / f'{name}_again'
    if name == 'second':
      train.main(config, tmp_path / name)
    with monkeypatch.context() as patch, pytest.raises(Stop):
      patch.setattr(packing.Lessons, 'launched', stop_after(3))
      train.main(config, again)
    train.main(config, again)
    files = [run / 'model' / 'model.safetensors' for run in (tmp_path / name, again)]
    assert files[0].read_bytes() == files[1].read_bytes()
    logs = [(run / 'metrics.jsonl').read_bytes() for run in (tmp_path / name, again)]
    assert logs[0] == logs[1] and len(logs[0].splitlines()) == 4
  changed = {
    key.split('.')[0]
    for key, before in load_file(tmp_path / 'first' / 'model' / 'model.safetensors').items()
    if not np.array_equal(before, load_file(tmp_path / 'second' / 'model' / 'model.safetensors')[key])
  }
  assert changed == {'pooling_before_gating', 'gating'}
  assert json.loads((tmp_path / 'second' / 'model' / 'config.json').read_text())['flash_mode'] is True
  last = json.loads((tmp_path / 'second' / 'metrics.jsonl').read_text().splitlines()[-1])
  assert 0 <= last['compressible'] <= 1 and np.isfinite(last['threshold'])


def stop_after(steps: int):
  """What ends a run when one more step than these has been launched."""
  seen = []

  def launched(self, metrics):
    seen.append(metrics)
    if len(seen) > steps:
      raise Stop

  return launched
