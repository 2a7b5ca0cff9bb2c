"""The study of Pref-GRPO: which trials run, at which learning rates, with training replaced by metrics on paper."""

import json

import pytest
from PIL import Image

from bench.pref_grpo import figures, study, trials
from rl.flow import train


def right(arm: str, rate: float) -> float:
  """What the held-out judge says at the end: comparisons are best at the middle rate, scores at the lowest."""
  best = {'pref_grpo': 1e-4, 'flow_grpo': 3e-5}[arm]
  return 0.9 if rate == best else 0.5


@pytest.fixture
def trained(monkeypatch):
  """The trials that were trained, in order: (arm, learning rate, seed, guidance)."""
  done = []

  def fake(config, workdir):
    arm = workdir.name.split('-')[0]
    rate = config.optim.lr
    done.append((arm, rate, config.seed, config.paths.guidance))
    workdir.mkdir(parents=True)
    # The score, which can be hacked, is highest at the largest rate: it must not choose.
    line = json.dumps({'right': right(arm, rate), 'score': rate})
    (workdir / 'metrics.jsonl').write_text(f'{line}\n' * config.steps)
    (workdir / 'results.json').write_text('{}')

  monkeypatch.setattr(train, 'train', fake)
  monkeypatch.setattr(study, 'pretrain', lambda options: None)
  return done


def test_each_arm_is_reported_at_the_rate_that_the_held_out_judge_prefers(trained, tmp_path):
  options = study.Options(out=str(tmp_path))
  study.work(options)
  chosen = {'pref_grpo': 1e-4, 'flow_grpo': 3e-5}
  tried = [(arm, rate, trials.CHOOSING, 1.0) for arm in trials.ARMS for rate in trials.RATES]
  assert trained[:6] == tried
  reported = {(arm, rate, seed, 1.0) for arm, rate in chosen.items() for seed in trials.REPORTED}
  assert set(trained[6:-1]) == reported and len(trained) == 13
  assert trained[-1] == ('pref_grpo', 1e-4, trials.REPORTED[0], trials.GUIDANCE)
  assert trials.CHOOSING not in trials.REPORTED


def test_a_study_that_was_stopped_trains_only_what_is_left(trained, tmp_path):
  options = study.Options(out=str(tmp_path))
  study.run(options, trials.Trial('flow_grpo', 1e-4, trials.CHOOSING))
  study.work(options)
  assert len(trained) == len(set(trained)) == 13
  study.work(options)
  assert len(trained) == 13


def test_grids_that_were_drawn_twice_are_shown_once(tmp_path):
  trial = trials.Trial('pref_grpo', 1e-4, 1)
  folder = tmp_path / trial.name / 'images'
  folder.mkdir(parents=True)
  continued_and_ended = (0, 10, 0, 20, 30, 40, 40)
  for number, level in enumerate(continued_and_ended):
    Image.new('L', (2, 2), level).save(folder / f'{number:03d}.png')
  shown = [grid.getpixel((0, 0)) for grid in figures.grids(tmp_path, trial)]
  assert shown == [0, 10, 20, 30, 40]


def test_figures_of_a_study_without_a_reported_trial_say_so(trained, tmp_path, capsys):
  options = study.Options(out=str(tmp_path))
  for trial in trials.choosing():
    study.run(options, trial)
  assert figures.main(['figures', f'--runs={tmp_path}', f'--out={tmp_path}']) == 1
  assert 'no reported trial has ended' in capsys.readouterr().err
