"""The reinforcement-learning binary on its smoke configuration."""

import dataclasses
import json
import pathlib
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

import internvl
from core.intervals import wilson
from core.sample import Sampling
from rl import policy, train
from rl.configs import CONFIGS, Config
from rl.rewards import exact_match

SMOKE = CONFIGS['smoke']


@pytest.fixture(scope='module')
def s():
  return train.setup(SMOKE)


@pytest.fixture(scope='module')
def weights(s):
  return internvl.init(jax.random.key(1), s.model)


def test_answers_have_the_log_probability_they_were_sampled_with(s, weights):
  prompts = s.prompts(s.queries('train', 5, 0, 4))
  answers = policy.answer(weights, s.model, prompts, max_new=4, stop=s.processor.stop_id,
                          sampling=Sampling.of(4, temperature=1.0, seed=3))
  logp, entropy = policy.log_probs(weights, s.model, prompts, answers)
  np.testing.assert_allclose(np.where(answers.mask, logp, 0), np.where(answers.mask, answers.logp, 0), atol=1e-4)
  assert (np.asarray(entropy) > 0).all()


@pytest.mark.parametrize('slots', [1, 4])
def test_answers_that_share_a_prompt_equal_answers_to_copies_of_it(s, weights, slots):
  prompts = s.prompts(s.queries('train', 5, 0, 2))
  copies = jax.tree.map(lambda x: np.repeat(x, 3, 0), prompts)
  sampling = Sampling.of(6, temperature=1.0, seed=3)
  shared, alone = (policy.answer(weights, s.model, p, max_new=slots, stop=s.processor.stop_id, sampling=sampling)
                   for p in (prompts, copies))
  assert shared.tokens.shape == (2, 3, slots) and alone.tokens.shape == (6, 1, slots)
  np.testing.assert_array_equal(shared.tokens.reshape(6, 1, slots), alone.tokens)
  for a, b in zip(policy.log_probs(weights, s.model, prompts, shared), policy.log_probs(weights, s.model, copies, alone)):
    np.testing.assert_allclose(np.where(shared.mask, a, 0).ravel(), np.where(alone.mask, b, 0).ravel(), atol=1e-5)


def test_a_sample_does_not_depend_on_the_batch_around_it(s, weights):
  prompts = s.prompts(s.queries('train', 5, 0, 4))
  draw = lambda p, seed: np.asarray(policy.answer(
      weights, s.model, p, max_new=4, stop=s.processor.stop_id,
      sampling=Sampling.of(len(seed), temperature=1.0, seed=np.array(seed))).tokens)
  alone = draw(jax.tree.map(lambda x: x[2:3], prompts), [9])
  np.testing.assert_array_equal(draw(prompts, [7, 8, 9, 10])[2:3], alone)


def test_rewards_go_to_the_prompt_they_answer(s, weights, monkeypatch):
  queries = s.queries('train', train.ROLLOUT_SEED, 0, SMOKE.prompts)
  said = [q.answer if n % 2 == 0 else 'wrong' for q in queries for n in range(SMOKE.group)]
  monkeypatch.setattr(policy, 'texts', lambda *_: said)
  batch, metrics = train.rollout(s, weights, 0)
  assert metrics['reward'] == 0.5
  gain = np.asarray(batch.advantages)
  assert (gain[:, 0] > 0).all() and (gain[:, 1] < 0).all()


def test_held_out_images_are_never_trained_on(s):
  from internvl import digits
  seen = lambda split: {p.tobytes() for p in digits.scans(split).pixels}
  assert not seen('train') & seen('heldout')


def test_wilson_interval_against_published_value():
  low, high = wilson(15, 50)  # Brown, Cai & DasGupta 2001 use this form
  assert low == pytest.approx(0.1910, abs=5e-4) and high == pytest.approx(0.4375, abs=5e-4)


def test_exact_match():
  assert exact_match(' Yes\n', 'yes') == 1.0
  assert exact_match('7.', '7') == 0.0
  assert exact_match('', '7') == 0.0


@pytest.mark.parametrize('field,value', [('group', 1), ('task', 'chess'), ('updates', 3), ('temperature', 0.0),
                                         ('steps', 0), ('accumulate', 5)])
def test_an_impossible_configuration_is_refused_by_name(field, value):
  with pytest.raises(ValueError, match=field):
    Config(**{field: value})


@pytest.mark.slow
def test_run_leaves_a_report_and_a_checkpoint_that_answers(tmp_path):
  config = dataclasses.replace(SMOKE, updates=2, accumulate=2)
  results = train.main(config, tmp_path)
  assert json.loads((tmp_path / 'results.json').read_text()) == results
  assert (tmp_path / 'reward.png').stat().st_size > 5000
  assert 'warm-up' in (tmp_path / 'report.html').read_text()
  model, params = internvl.load(tmp_path / 'model', dtype=np.float32)
  processor = internvl.Processor.load(tmp_path / 'model')
  assert model.image_token == processor.image_id
  text = internvl.chat(params, model, processor, [{'role': 'user', 'content': '<image>\nSum?'}],
                       images=[train.setup(config).queries('heldout', 3, 0, 1)[0].images[0]], max_new_tokens=4)
  assert isinstance(text, str)


def _lines(folder: pathlib.Path) -> int:
  path = folder / 'metrics.jsonl'
  return len(path.read_text().splitlines()) if path.exists() else 0


@pytest.mark.slow
def test_killed_and_started_again_gives_the_same_metrics(tmp_path):
  command = [sys.executable, '-m', 'rl.train', '--config=smoke', '--config.steps=6']
  run = lambda name, **k: subprocess.Popen([*command, f'--workdir={tmp_path / name}'], stdout=subprocess.DEVNULL,
                                           stderr=subprocess.DEVNULL, **k)
  assert run('whole').wait(timeout=600) == 0
  for after in (1, 3):  # killed without warning once that many steps are written down
    process = run('cut')
    deadline = time.monotonic() + 600
    while _lines(tmp_path / 'cut') < after and process.poll() is None and time.monotonic() < deadline:
      time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
  assert run('cut').wait(timeout=600) == 0
  for name in ('metrics.jsonl', 'warmup/metrics.jsonl', 'results.json', 'model/model.safetensors'):
    assert (tmp_path / 'whole' / name).read_bytes() == (tmp_path / 'cut' / name).read_bytes(), name
