"""The whole cascade by `rl.train`: pairs out of the policy's own samples, MPO, the choice of queries, GSPO."""

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
from core.toy.digits import export as export_digits
from core.training.optim import Optim
from rl import policy as policies
from rl.configs import Config, Supervision
from rl.learning.supervised import Demonstrations, solutions, supervise
from rl.learning.update import Pass
from rl.policy import ANY_SLOTS
from rl.preference import Records
from rl.rollout.collect import QuerySource
from rl.tasks import from_files

ONE = mesh.make(devices=jax.devices()[:1])


def guesses(folder: pathlib.Path, split: str, n: int) -> str:
  """One question and image over and over, the answer 1 or 2 by chance: half of what a formed policy says is right."""
  export_digits(folder, split, 0, n)
  path = folder / f'{split}.jsonl'
  rows = [json.loads(line) for line in path.read_text().splitlines()]
  answers = np.random.default_rng(len(split)).integers(1, 3, n)
  for row, answer in zip(rows, answers):
    row['image'], row['answer'] = rows[0]['image'], str(answer)
    row['conversations'] = [
      {'from': 'human', 'value': '<image>\n1 or 2?'},
      {'from': 'gpt', 'value': f'<think>?</think>\\boxed{{{answer}}}'},
    ]
  path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
  return str(path)


@pytest.fixture(scope='module')
def start(tmp_path_factory) -> tuple[pathlib.Path, tuple[str, str]]:
  """(checkpoint of a policy that answers in form and guesses, files of training and held-out queries)."""
  folder = tmp_path_factory.mktemp('start')
  files = guesses(folder, 'train', 64), guesses(folder, 'heldout', 8)
  config = Config(
    data=files[:1],
    heldout=files[1:],
    max_new=32,
    warmup=Supervision(steps=60, batch=32, optim=Optim('muon', lr=5e-3, schedule='constant', warmup_steps=10)),
  )
  p, weights = policies.load('tiny', ONE)
  source = QuerySource(from_files(config.data, config.heldout, 'boxed_and_format'), p, 0, 1000)
  taught = Demonstrations(solutions(source, config.max_new), slots=ANY_SLOTS._replace(response=config.max_new))
  weights = supervise(Pass(p), weights, taught, config.warmup, folder, ONE, config)
  with jax.set_mesh(ONE):
    p.save(folder / 'model', weights)
  return folder / 'model', files


def command(start, workdir: pathlib.Path) -> list[str]:
  """`rl.train --config=expressions`, scaled down to seconds."""
  model, (train, heldout) = start
  flags = {
    'model': model,
    'data': train,
    'heldout': heldout,
    'warmup.steps': 0,
    'steps': 2,
    'prompts': 4,
    'group': 4,
    'max_new': 32,
    'optim.warmup_steps': 1,
    'eval_queries': 8,
    'eval_every': 2,
    'save_every': 1,
    'engine.slots': 16,
    'engine.pages': 128,
    'engine.chunk': 64,
    'offline.queries': 8,
    'offline.samples': 6,
    'offline.most': 4,
    'offline.low': 0.1,
    'offline.high': 0.9,
    'offline.phase.steps': 3,
    'offline.phase.batch': 4,
    'offline.phase.save_every': 1,
    'offline.phase.reference_batch': 4,
    'offline.phase.limits.prompt': 64,
    'offline.phase.limits.response': 32,
    'offline.phase.limits.tiles': 3,
    'offline.phase.optim.lr': 1e-4,
    'offline.phase.optim.warmup_steps': 1,
  }
  return [
    sys.executable,
    '-m',
    'rl.train',
    '--config=expressions',
    f'--workdir={workdir}',
    *(f'--config.{name}={value}' for name, value in flags.items()),
  ]


def lines(path: pathlib.Path) -> list[dict]:
  return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


KILLS = {
  'sampling for pairs': lambda run: (run / 'pairs.jsonl').exists(),
  'MPO': lambda run: len(lines(run / 'mpo/metrics.jsonl')) >= 1,
  'GSPO': lambda run: len(lines(run / 'metrics.jsonl')) >= 1,
}


@pytest.mark.long
def test_a_cascade_killed_in_each_phase_ends_as_one_that_was_not(start, tmp_path):
  run = lambda name: subprocess.Popen(
    command(start, tmp_path / name), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
  )
  whole, cut = tmp_path / 'whole', tmp_path / 'cut'
  process = run('whole')
  said, _ = process.communicate(timeout=900)
  assert process.returncode == 0, said[-4000:]
  _is_a_whole_cascade(whole)
  for phase, reached in KILLS.items():  # each continues the one that was killed before it
    process, deadline = run('cut'), time.monotonic() + 900
    while not reached(cut) and process.poll() is None and time.monotonic() < deadline:
      time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert reached(cut) and not (cut / 'results.json').exists(), phase
  process = run('cut')
  said, _ = process.communicate(timeout=900)
  assert process.returncode == 0, said[-4000:]
  for name in (
    'pairs.jsonl',
    'mpo/metrics.jsonl',
    'queries.json',
    'metrics.jsonl',
    'results.json',
    'model/model.safetensors',
  ):
    assert (whole / name).read_bytes() == (cut / name).read_bytes(), name


def _is_a_whole_cascade(run: pathlib.Path):
  pairs = Records(run / 'pairs.jsonl')
  assert len(pairs) >= 4 and all('boxed' in pairs[i].chosen for i in range(len(pairs)))
  kept = json.loads((run / 'queries.json').read_text())
  assert kept and set(kept) <= set(range(8))
  offline, online = lines(run / 'mpo/metrics.jsonl'), lines(run / 'metrics.jsonl')
  assert [m['step'] for m in offline] == [1, 2, 3] and [m['step'] for m in online] == [1, 2]
  assert offline[0]['preference'] == pytest.approx(np.log(2), abs=1e-4)
  assert 0 < online[0]['right'] < 1
  results = json.loads((run / 'results.json').read_text())
  assert results['before']['queries'] == results['after']['queries'] == 8
  assert (run / 'reward.png').stat().st_size > 5000 and 'Responses after' in (run / 'report.html').read_text()
  weights = internvl.load(run / 'model', dtype='float32')[1]
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(weights))
