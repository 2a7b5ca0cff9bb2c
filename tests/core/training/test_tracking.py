"""Metrics go to Weights & Biases only where a project is named, step by step, and continue with the folder."""

import sys
import types

import pytest

from core.training import tracking
from core.training.record import Recorder


def test_a_run_is_tracked_where_a_project_is_named(tmp_path, monkeypatch):
  runs = []

  class Run:
    def __init__(self, **options):
      self.options, self.logged, self.finished = options, [], False
      runs.append(self)

    def log(self, values, step):
      self.logged.append((step, values))

    def finish(self):
      self.finished = True

  monkeypatch.setitem(sys.modules, 'wandb', types.SimpleNamespace(init=Run))
  for project, start in (('', 0), ('digits', 1), ('digits', 2)):
    monkeypatch.setenv('WANDB_PROJECT', project)
    recorder = Recorder(tmp_path, start, 3, ())
    recorder.write(start + 1, {'reward': 0.5, 'loss': float('nan')})
    recorder.close()
  first, second = runs
  assert first.options == second.options and first.options['resume'] == 'allow'
  ((step, values),) = first.logged
  assert step == 2 and values['reward'] == 0.5 and 'loss' not in values and 'time/steps_per_second' in values
  assert second.logged[0][0] == 3 and first.finished and second.finished


@pytest.mark.parametrize(
  'environment, keys, mode',
  [
    ({}, '', 'offline'),
    ({'WANDB_MODE': 'online'}, '', 'offline'),
    ({'WANDB_MODE': 'offline'}, '', None),
    ({'WANDB_API_KEY': 'k'}, '', None),
    ({}, 'machine api.wandb.ai login user password k\n', None),
    ({}, 'machine example.org login user password k\n', 'offline'),
    ({}, 'machine', 'offline'),
    ({'WANDB_BASE_URL': 'https://example.org:8080'}, 'machine example.org login user password k\n', None),
  ],
)
def test_without_a_key_a_run_stays_offline_instead_of_asking(environment, keys, mode, tmp_path, monkeypatch):
  asked = []
  for name in ('WANDB_MODE', 'WANDB_API_KEY', 'WANDB_IDENTITY_TOKEN_FILE', 'WANDB_BASE_URL'):
    monkeypatch.delenv(name, raising=False)
  (tmp_path / 'netrc').write_text(keys)
  for name, value in (environment | {'WANDB_PROJECT': 'p', 'NETRC': str(tmp_path / 'netrc')}).items():
    monkeypatch.setenv(name, value)
  monkeypatch.setitem(sys.modules, 'wandb', types.SimpleNamespace(init=lambda **options: asked.append(options)))
  tracking.Tracker(tmp_path)
  assert [options['mode'] for options in asked] == [mode]


def test_the_first_step_compiles_and_does_not_count_in_the_time_that_is_left(tmp_path):
  recorder = Recorder(tmp_path, 0, 5, ())
  recorder._began = 100.0
  assert recorder._pace(1, 190.0) == '01:30 with its compilation'
  recorder._first, recorder._began = 1, 190.0
  assert recorder._pace(3, 194.0) == '0.5 steps/s, 00:04 left'
  recorder.close()
