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
from core import mesh
from core.report.intervals import wilson
from core.toy import digits
from rl import policy, train
from rl.configs import CONFIGS, Config, Warmup
from rl.evaluate import evaluate
from rl.rewards import Rewards, exact_match
from rl.rollouts import Collector
from rl.setup import ROLLOUT_SEED, Setup, setup

SMOKE = CONFIGS['smoke']


ONE = mesh.make(devices=jax.devices()[:1])


@pytest.fixture(scope='module')
def s():
  return setup(SMOKE, ONE)[0]


@pytest.fixture(scope='module')
def weights(s):
  return internvl.init(jax.random.key(1), s.model)


@pytest.fixture(scope='module')
def sampler(s, weights):
  return s.sampler(weights, mesh.Share(ONE, ONE))


def _prompts(s, n):
  return s.inputs(s.queries('train', 5, range(n)))


@pytest.mark.parametrize('temperature', [1.0, 0.7])
def test_answers_have_the_log_probability_they_were_sampled_with(s, weights, sampler, temperature):
  prompts = _prompts(s, 4)
  answers = sampler(prompts, max_new=4, samples=2, temperature=temperature, seeds=[3, 5, 7, 9])
  logp, entropy = policy.log_probs(weights, s.model, s.collate(prompts), answers, temperature=temperature)
  np.testing.assert_allclose(np.where(answers.mask, logp, 0), answers.logp, atol=1e-4)
  assert (np.asarray(entropy) > 0).all()


@pytest.mark.parametrize('slots', [1, 4])
def test_log_probabilities_of_answers_that_share_a_prompt_equal_those_beside_copies_of_it(s, weights, sampler, slots):
  prompts = _prompts(s, 2)
  shared = sampler(prompts, max_new=slots, samples=3, temperature=1.0)
  alone = jax.tree.map(lambda x: x.reshape(6, 1, slots), shared)
  copies = jax.tree.map(lambda x: np.repeat(x, 3, 0), s.collate(prompts))
  pairs = zip(
    policy.log_probs(weights, s.model, s.collate(prompts), shared), policy.log_probs(weights, s.model, copies, alone)
  )
  for a, b in pairs:
    np.testing.assert_allclose(np.where(shared.mask, a, 0).ravel(), np.where(alone.mask, b, 0).ravel(), atol=1e-5)


def test_a_sample_does_not_depend_on_the_batch_around_it(s, sampler):
  prompts = _prompts(s, 4)
  draw = lambda which: sampler(
    [prompts[i] for i in which], max_new=4, samples=2, temperature=1.0, seeds=[10 * i for i in which]
  )
  np.testing.assert_array_equal(draw([0, 1, 2, 3]).tokens[2:3], draw([2]).tokens)


def _collect(
  s,
  sampler,
  monkeypatch,
  say,
  guard=lambda calls: Rewards(np.array([exact_match(*c) for c in calls], np.float32), np.ones(len(calls), bool), {}),
  start=0,
  **changes,
):
  """Rollouts in which sample n of query number i says say(i, n, right answer)."""
  s = dataclasses.replace(s, config=dataclasses.replace(s.config, **changes))
  asked = []

  def spy(split, stream, numbers):
    asked[:] = numbers
    return Setup.queries(s, split, stream, numbers)

  def texts(*_):
    rows = zip(asked, Setup.queries(s, 'train', ROLLOUT_SEED, asked))
    return [say(i, n, q.answer) for i, q in rows for n in range(s.config.group)]

  watched = Setup(s.config, s.model, s.processor, s.task, s.length)
  object.__setattr__(watched, 'queries', spy)
  monkeypatch.setattr(policy, 'texts', texts)
  return Collector(watched, guard)(sampler, start)


def test_rewards_go_to_the_prompt_they_answer(s, sampler, monkeypatch):
  batch, metrics, after = _collect(s, sampler, monkeypatch, lambda i, n, right: right if n == 0 else 'wrong')
  assert metrics['reward'] == 0.5 and metrics['reward_flat_groups'] == 0 and after == SMOKE.prompts
  gain = np.asarray(batch.advantages)[..., 0]
  assert (gain[:, 0] > 0).all() and (gain[:, 1] < 0).all()


def test_dynamic_sampling_goes_on_until_every_group_is_mixed(s, sampler, monkeypatch):
  say = lambda i, n, right: right if n == 0 or i % 2 else 'wrong'  # every other query is solved by all samples
  batch, metrics, after = _collect(s, sampler, monkeypatch, say, start=6, dynamic=True)
  assert (np.asarray(batch.advantages)[:, 0] > 0).all() and after == 6 + 2 * SMOKE.prompts
  assert metrics['dynamic_rounds'] == 2 and metrics['dynamic_kept'] == 0.5


def test_a_lost_reward_costs_its_sample_alone(s, sampler, monkeypatch):
  def guard(calls):
    values = np.array([exact_match(*c) for c in calls], np.float32)
    return Rewards(values, np.arange(len(calls)) != 0, {0: 'raised'})

  batch, metrics, _ = _collect(s, sampler, monkeypatch, lambda i, n, right: right if n == 0 else 'wrong', guard)
  assert metrics['reward_lost'] == np.float32(1 / (SMOKE.prompts * SMOKE.group))
  assert not batch.answers.mask[0, 0].any() and batch.answers.mask[1, 0].any()
  assert (np.asarray(batch.advantages)[0, 0] == 0).all()


def test_pass_at_k_counts_the_drawn_answers(s, sampler):
  queries = s.queries('heldout', 3, range(6))
  seen = []

  def right(answer, reference):
    seen.append(reference)
    return float(len(seen) % 3 == 0)

  result = evaluate(sampler, s.processor, queries, max_new=2, right=right, samples=3)
  assert result.right == [False, False, True, False, False, True] and result.sampled.shape == (6, 3)
  assert seen[6:] == [q.answer for q in queries for _ in range(3)]
  assert result.pass_at(3) == 1.0 and result.pass_at(1) == pytest.approx(1 / 3)
  assert result.summary()['pass@3'] == 1.0


def test_held_out_images_are_never_trained_on(s):
  seen = lambda split: {p.tobytes() for p in digits.scans(split).pixels}
  assert not seen('train') & seen('heldout')


def test_wilson_interval_against_published_value():
  low, high = wilson(15, 50)  # Brown, Cai & DasGupta 2001 use this form
  assert low == pytest.approx(0.1910, abs=5e-4) and high == pytest.approx(0.4375, abs=5e-4)


def test_exact_match():
  assert exact_match(' Yes\n', 'yes') == 1.0
  assert exact_match('7.', '7') == 0.0
  assert exact_match('', '7') == 0.0


@pytest.mark.parametrize(
  'field,value',
  [('group', 1), ('task', 'chess'), ('updates', 3), ('temperature', 0.0), ('steps', 0), ('accumulate', 5)],
)
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
  text = internvl.chat(
    params,
    model,
    processor,
    [{'role': 'user', 'content': '<image>\nSum?'}],
    images=setup(config, ONE)[0].queries('heldout', 3, range(1))[0].images,
    max_new_tokens=4,
  )
  assert isinstance(text, str)
  _trains_on_from(tmp_path / 'model', tmp_path)


def _trains_on_from(model: pathlib.Path, folder: pathlib.Path):
  """The checkpoint is where another run starts, on queries from files, in bfloat16."""
  for split in digits.SPLITS:
    digits.export(folder, split, 0, 8)
  more = dataclasses.replace(
    SMOKE,
    model=str(model),
    warmup=Warmup(steps=0),
    dtype='bfloat16',
    prompt_length=64,
    data=(str(folder / 'train.jsonl'),),
    heldout=(str(folder / 'heldout.jsonl'),),
    reward='exact_match',
    eval_samples=2,
  )
  results = train.main(more, folder / 'more')
  assert results['before']['queries'] == 8 and 'pass@2' in results['after']
  assert internvl.load(folder / 'more' / 'model')[1].language.embed.dtype == jax.numpy.bfloat16


@pytest.mark.parametrize(
  'flag,names',
  [('--config.ahead=True', 'ahead'), ('--config.model=/nowhere', '/nowhere'), ('--config.mesh.model=3', 'model=3')],
)
def test_what_cannot_be_is_one_line(flag, names, tmp_path):
  out = subprocess.run(
    [sys.executable, '-m', 'rl.train', '--config=smoke', f'--workdir={tmp_path / "run"}', flag],
    capture_output=True,
    text=True,
    timeout=300,
    check=False,
  )
  said = [line for line in out.stderr.splitlines() if line.startswith('error:')]
  assert out.returncode == 1 and len(said) == 1 and names in said[0] and 'Traceback' not in out.stderr
  assert not (tmp_path / 'run').exists()


def _lines(folder: pathlib.Path) -> int:
  path = folder / 'metrics.jsonl'
  return len(path.read_text().splitlines()) if path.exists() else 0


@pytest.mark.slow
def test_killed_and_started_again_gives_the_same_metrics(tmp_path):
  command = [sys.executable, '-m', 'rl.train', '--config=smoke', '--config.steps=6']
  run = lambda name, **k: subprocess.Popen(
    [*command, f'--workdir={tmp_path / name}'], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **k
  )
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
