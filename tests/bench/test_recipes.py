"""Studies of recipes: which trials run, at which learning rates, and what their tables say; training is replaced."""

import dataclasses
import json

import numpy as np
import pytest

from bench.recipes import figures, lines, study, svs, trials, vision_sr1
from core.training.run import differences
from rl import train
from rl.query import Query

BEST = {'svs': 1e-3, 'grpo': 3e-4}


@pytest.fixture
def trained(monkeypatch):
  """The trials that were trained, in order: (arm, learning rate, seed)."""
  done = []

  def fake(config, workdir):
    arm = workdir.name.split('-')[0]
    done.append((arm, config.optim.lr, config.seed))
    workdir.mkdir(parents=True)
    rollouts = [{'step': i, 'tokens': 10, **dict.fromkeys(svs.RECIPE.curves, 0.5)} for i in range(4)]
    (workdir / 'metrics.jsonl').write_text('\n'.join(map(json.dumps, rollouts)))

  def measured(recipe, config, model, questions):
    arm, rate, seed = model.parent.name.split('-') if '-' in model.parent.name else ('svs', '0', 'seed0')
    right = 0.9 if float(rate) == BEST[arm] else 0.5
    right += 0.01 * int(seed.removeprefix('seed'))
    # Entropy is highest at the largest rate: it must not choose.
    return {'pass@1': [right] * questions, 'pass@16': [float(arm == 'svs')] * questions, 'entropy': [float(rate)]}

  monkeypatch.setattr(train, 'main', fake)
  monkeypatch.setattr(study, 'measure', measured)
  monkeypatch.setattr(study, 'warm_up', lambda config, folder: (folder / 'model').mkdir(parents=True))
  return done


@pytest.fixture
def options(tmp_path):
  return study.Options(recipe='svs', out=str(tmp_path), questions=2)


def test_each_arm_is_reported_at_the_rate_that_its_own_measure_prefers(trained, options):
  study.work(options)
  tried = [(arm, rate, trials.CHOOSING) for arm in BEST for rate in svs.RECIPE.rates]
  assert trained[:6] == tried
  assert sorted(trained[6:]) == sorted((arm, rate, seed) for arm, rate in BEST.items() for seed in trials.REPORTED)
  assert trials.CHOOSING not in trials.REPORTED


def test_a_given_rate_is_reported_without_a_choice(trained, options):
  study.work(dataclasses.replace(options, rate=0.01))
  assert trained == [(arm, 0.01, seed) for seed in trials.REPORTED for arm in BEST]


def test_a_study_that_was_stopped_trains_only_what_is_left(trained, options):
  study.run(study.named('svs'), options, trials.Trial('grpo', 3e-4, trials.CHOOSING))
  study.work(options)
  assert len(trained) == len(set(trained)) == 12


def test_a_table_has_means_of_the_reported_seeds_and_intervals(trained, options, tmp_path):
  study.work(options)
  chosen = figures.reported(svs.RECIPE, tmp_path)
  rows = figures.table(svs.RECIPE, tmp_path, chosen)
  # Seeds of 0.91, 0.92 and 0.93: Student's t with two degrees of freedom.
  half = 4.303 * 0.01 / 3**0.5
  assert rows[2].split(' | ')[1:4] == ['0.500', f'0.920 ± {half:.3f}', f'0.920 ± {half:.3f}']
  assert rows[3].split(' | ')[4:] == ['1.000 ± 0.000', '+1.000 (+1.000 to +1.000) |']
  figures.curves(svs.RECIPE, tmp_path, chosen, tmp_path / 'curves.png')
  assert (tmp_path / 'curves.png').read_bytes()[:4] == b'\x89PNG'


def test_figures_of_a_study_that_has_not_ended_say_what_is_missing(trained, options, tmp_path, capsys):
  study.work(options)
  (tmp_path / 'svs-0.001-seed2' / study.MEASURED).unlink()
  assert figures.main(['figures', '--recipe=svs', f'--runs={tmp_path}', f'--out={tmp_path}']) == 1
  assert 'svs-0.001-seed2 not ended' in capsys.readouterr().err


def test_the_mean_of_curves_goes_as_far_as_all_of_them():
  one = lines.Points(np.array([0.0, 1.0, 2.0, 3.0]), np.array([0.0, 1.0, 2.0, 3.0]))
  other = lines.Points(np.array([0.0, 2.0]), np.array([0.0, 4.0]))
  x, y = lines.mean([one, other])
  assert x.tolist() == [0, 1, 2] and y.tolist() == [0, 1.5, 3]


def test_both_arms_of_a_recipe_differ_in_it_alone():
  changed = {
    'svs': ['svs.variants: 8, now 0'],
    'treepo': ["advantage: 'treepo', now 'grpo'", 'rule.dual_clip: 10.0, now None', 'tree.segment: 4, now 0'],
    'vision_sr1': ["sr1.generation: 'c2', now 'no_self_reward'"],
  }
  for name, difference in changed.items():
    configs = [dataclasses.asdict(config) for config in study.named(name).arms.values()]
    assert differences(*configs) == difference


def test_the_digits_of_an_image_are_those_of_its_solution():
  query = Query([], [], '7', r'<description>4 3</description><think>4+3</think>\boxed{7}')
  assert vision_sr1.shown(query) == (4, 3)
