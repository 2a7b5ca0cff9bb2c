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
from core.engine import EngineSize
from core.report.intervals import wilson
from core.toy import digits
from rl import policy as policies
from rl import train
from rl.configs import CONFIGS, Config, Supervision
from rl.evaluate import Evaluation, evaluate
from rl.policy import Draw
from rl.rewards import exact_match
from rl.rollout import Flat, Sampler
from rl.rollout.collect import QuerySource
from rl.tasks import TASKS

SMOKE = CONFIGS['smoke']


ONE = mesh.make(devices=jax.devices()[:1])


@pytest.mark.slow
def test_pass_at_k_counts_the_drawn_responses():
  p, weights = policies.load('tiny', ONE)
  sampler = Sampler(p, weights, SMOKE.engine, mesh.Share(ONE, ONE))
  source, seen = QuerySource(TASKS['digits'], p, 0, 200), []

  class Third:
    """Says that every third response is right."""

    knows_right = True

    def right(self, queries, responses):
      flat = [q.answer for q, rs in zip(queries, responses) for _ in rs]
      start = len(seen)
      seen.extend(flat)
      verdict = [(start + i + 1) % 3 == 0 for i in range(len(flat))]
      return np.array(verdict).reshape(len(queries), -1)

  evaluation = Evaluation(Flat(Draw(2, temperature=0.0), 1), Flat(Draw(2), 3))
  result = evaluate(sampler, source, Third(), evaluation, 6)
  assert result.right == [False, False, True, False, False, True] and result.sampled.shape == (6, 3)
  assert seen[6:] == [q.answer for q in result.queries for _ in range(3)]
  assert result.pass_at(3) == 1.0 and result.pass_at(1) == pytest.approx(1 / 3)
  assert result.summary()['pass@3'] == 1.0
  short = dataclasses.replace(source, limit=min(len(source.prompt(q).tokens) for q in result.queries))
  cut = evaluate(sampler, short, Third(), Evaluation(Flat(Draw(2, temperature=0.0), 1)), 6)
  assert '' in cut.responses and cut.sampled is None
  with pytest.raises(ValueError, match='none of 6 held-out prompts'):
    evaluate(sampler, dataclasses.replace(source, limit=3), Third(), evaluation, 6)


def test_held_out_images_are_never_trained_on():
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
  assert 'Responses before reinforcement learning' in (tmp_path / 'report.html').read_text()
  model, params = internvl.load(tmp_path / 'model', dtype=np.float32)
  processor = internvl.Processor.load(tmp_path / 'model')
  assert model.image_token == processor.image_id
  text = internvl.chat(
    params,
    model,
    processor,
    [{'role': 'user', 'content': '<image>\nSum?'}],
    images=TASKS['digits'].query('heldout', 3, 0).images,
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
    warmup=Supervision(steps=0),
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_tiny_treepo_run_trains_on_packed_trees(tmp_path):
  config = dataclasses.replace(
    CONFIGS['treepo'],
    warmup=Supervision(steps=0),
    steps=1,
    prompts=2,
    group=4,
    max_new=8,
    eval_queries=2,
    eval_samples=0,
    eval_every=1,
    engine=EngineSize(slots=8, pages=128, page_size=4, segment=4),
  )
  train.main(config, tmp_path)
  (line,) = map(json.loads, (tmp_path / 'metrics.jsonl').read_text().splitlines())
  assert (
    line['sampler_gap'] <= line['sampler_gap_max'] < 1e-4 and np.isfinite(line['loss']) and line['response_length'] <= 8
  )
  with pytest.raises(ValueError, match=r'svs\.variants=2'):
    dataclasses.replace(config, svs=dataclasses.replace(config.svs, variants=2))
