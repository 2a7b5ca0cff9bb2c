"""`rl.mpo`: from a checkpoint and a folder laid out as MMPR to a checkpoint."""

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
from core.launch.errors import USER_ERRORS
from core.mesh import Shape
from core.training.optim import Optim
from rl import configs, mpo, preference
from rl import policy as policies
from rl.mpo import CONFIGS, Config
from rl.policy import Slots
from tests.rl.preference.pairs import digits_pairs, initial, tiny_policy


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory) -> pathlib.Path:
  """A tiny checkpoint in layout A, as those of OpenGVLab."""
  policy = dataclasses.replace(tiny_policy(), file_layout='A')
  folder = tmp_path_factory.mktemp('start') / 'model'
  policy.save(folder, initial(policy))
  return folder


@pytest.fixture(scope='module')
def data(tmp_path_factory) -> pathlib.Path:
  """The meta.json of two files of pairs, one with every record twice an epoch, of the other half."""
  folder = tmp_path_factory.mktemp('data') / 'MMPR'
  (folder / 'images').mkdir(parents=True)
  (folder / 'annotations').mkdir()
  entries = {}
  for name, repeat, some in (('twice', 2, digits_pairs(6)), ('half', 0.5, digits_pairs(14)[6:])):
    rows = []
    for n, pair in enumerate(some):
      pair.images[0].save(folder / 'images' / f'{name}{n}.png')
      rows.append(
        {
          'image': f'{name}{n}.png',
          'question': pair.messages[0]['content'],
          'chosen': pair.chosen,
          'rejected': pair.rejected,
          'answer_gt': pair.answer,
          'meta': None,
        }
      )
    (folder / f'annotations/{name}.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
    entries[name] = {
      'root': 'MMPR/images',
      'annotation': f'MMPR/annotations/{name}.jsonl',
      'data_augment': False,
      'repeat_time': repeat,
      'length': len(rows),
    }
  (folder / 'meta.json').write_text(json.dumps(entries, indent=2))
  return folder / 'meta.json'


def test_an_epoch_goes_through_the_pairs_as_the_mixture_says(checkpoint, data):
  config = Config(model=str(checkpoint), data=(str(data),))
  policy = tiny_policy()
  parts = mpo.pairs(config, policy, mpo.files(config))
  assert {name: (len(examples), repeat) for name, (examples, repeat) in parts.items()} == {
    'twice': (6, 2.0),
    'half': (4, 1.0),
  }
  needs = preference.measure(policy, parts['half'][0])
  assert needs.shape == (4, len(Slots._fields)) and (needs[:, Slots._fields.index('tiles')] == 3).all()


@pytest.mark.parametrize(
  'change, says',
  [
    ({'rejected': None}, r'twice\.jsonl:3: "rejected" must be a text'),
    ({'image': 'gone.png'}, r'twice\.jsonl:3: names .*images/gone\.png, which does not exist'),
    ({'question': '<image> <image>'}, r'twice\.jsonl:3: .*2 <image> marks'),
  ],
)
def test_a_bad_record_stops_before_anything_is_loaded(checkpoint, data, tmp_path, monkeypatch, change, says):
  bad = json.loads(data.read_text())
  source = data.parent / 'annotations/twice.jsonl'
  rows = [json.loads(line) for line in source.read_text().splitlines()]
  rows[2] |= change
  bad['twice']['annotation'] = 'twice.jsonl'
  bad['twice']['root'] = str(data.parent / 'images')
  del bad['half']
  (tmp_path / 'twice.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
  (tmp_path / 'meta.json').write_text(json.dumps(bad))
  monkeypatch.setattr(internvl, 'load', lambda *_, **__: pytest.fail('loaded'))
  with pytest.raises(USER_ERRORS, match=says):
    mpo.main(Config(model=str(checkpoint), data=(str(tmp_path / 'meta.json'),)), tmp_path / 'run')
  assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize(
  'change, says',
  [
    ({'model': ''}, 'model='),
    ({'data': ()}, 'data='),
    ({'data': ('x.txt',)}, 'suffix'),
    ({'model': '/nowhere'}, 'nowhere'),
  ],
)
def test_what_is_missing_is_one_line(checkpoint, data, tmp_path, change, says):
  good = Config(model=str(checkpoint), data=(str(data),))
  with pytest.raises(USER_ERRORS, match=says):
    mpo.main(dataclasses.replace(good, **change), tmp_path / 'run')


def test_the_defaults_are_the_releases():
  c = CONFIGS['release']
  assert (c.batch, c.optim.lr, c.optim.weight_decay, c.dtype, c.loss.beta) == (256, 2e-7, 0.05, 'bfloat16', 0.1)
  assert c.limits.prompt + c.limits.response == 16384


def test_a_trial_shorter_than_its_warm_up_needs_no_second_flag():
  """The schedule ends the warm-up with the run (`core.training.optim`), in every phase alike."""
  assert Config(steps=20).optim.warmup_steps == 24
  assert configs.Config(steps=2, updates=2).optim.warmup_steps == 5
  assert configs.Supervision(steps=3).optim.warmup_steps == 10


def text_folder(folder: pathlib.Path) -> pathlib.Path:
  """A checkpoint of text alone."""
  one = mesh.make(devices=jax.devices()[:1])
  policy, weights = policies.load('tiny-text', one)
  with jax.set_mesh(one):
    policy.save(folder, weights)
  return folder


def text_pairs(path: pathlib.Path, n: int) -> pathlib.Path:
  """Records without images, in which `yes` is preferred to `no`."""
  rows = [{'question': f'Is {i} a number?', 'chosen': f'yes, {i}', 'rejected': f'no, {i}'} for i in range(n)]
  path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
  return path


@pytest.mark.slow
def test_a_text_only_folder_learns_from_text_only_pairs(tmp_path):
  config = Config(
    model=str(text_folder(tmp_path / 'start')),
    data=(str(text_pairs(tmp_path / 'pairs.jsonl', 8)),),
    steps=8,
    batch=4,
    limits=preference.Limits(64, 64, 0),
    reference_batch=4,
    save_every=8,
    dtype='float32',
    remat='none',
    optim=Optim(lr=1e-3, schedule='constant'),
    mesh=Shape(data=1),
  )
  mpo.main(config, tmp_path / 'run')
  first, *_, last = steps(tmp_path / 'run')
  assert first['preference'] == pytest.approx(np.log(2), abs=1e-4) and first['chosen'] == pytest.approx(0, abs=1e-3)
  assert last['chosen'] > last['rejected'] + 0.1 and last['chosen'] > 0 and last['preferred'] == 1
  trained, _ = policies.load(tmp_path / 'run/model', mesh.make(devices=jax.devices()[:1]))
  assert isinstance(trained, policies.text.TextPolicy)


def test_a_text_only_folder_refuses_pairs_with_images_by_their_line(data, tmp_path):
  records = data.parent / 'annotations/twice.jsonl'
  rows = [json.loads(line) for line in records.read_text().splitlines()]
  (tmp_path / 'a.jsonl').write_text(json.dumps(rows[0] | {'image': str(data.parent / 'images/twice0.png')}) + '\n')
  config = Config(model=str(text_folder(tmp_path / 'start')), data=(str(tmp_path / 'a.jsonl'),))
  with pytest.raises(USER_ERRORS, match=r'a\.jsonl:1: a query has 1 images: expected none'):
    mpo.main(config, tmp_path / 'run')


def start(checkpoint, data, workdir) -> subprocess.Popen:
  flags = {
    'model': checkpoint,
    'data': data,
    'steps': 12,
    'batch': 4,
    'accumulate': 2,
    'buckets': 2,
    'limits.prompt': 64,
    'limits.response': 64,
    'limits.tiles': 3,
    'reference_batch': 4,
    'save_every': 2,
    'dtype': 'float32',
    'optim.lr': 1e-3,
    'optim.warmup_steps': 2,
  }
  return subprocess.Popen(
    [
      sys.executable,
      '-m',
      'rl.mpo',
      f'--workdir={workdir}',
      *(f'--config.{name}={value}' for name, value in flags.items()),
    ],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def steps(workdir) -> list[dict]:
  path = workdir / 'metrics.jsonl'
  return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.mark.slow
def test_killed_and_started_again_it_ends_the_same_and_answers(checkpoint, data, tmp_path):
  whole, cut = tmp_path / 'whole', tmp_path / 'cut'
  out, err = (process := start(checkpoint, data, whole)).communicate(timeout=900)
  assert process.returncode == 0 and f'checkpoint: {whole / "model"}' in out, err
  first, last = steps(whole)[0], steps(whole)[-1]
  assert first['preference'] == pytest.approx(np.log(2), abs=1e-4) and last['preference'] < np.log(2) - 0.01
  process, deadline = start(checkpoint, data, cut), time.monotonic() + 900
  while len(steps(cut)) < 5 and process.poll() is None and time.monotonic() < deadline:
    time.sleep(0.02)
  process.send_signal(signal.SIGKILL)
  process.communicate()
  assert len(steps(cut)) >= 5 and not (cut / 'model').exists()
  out, err = (process := start(checkpoint, data, cut)).communicate(timeout=900)
  assert process.returncode == 0 and 'resuming after step' in err, err
  for name in ('metrics.jsonl', 'model/model.safetensors'):
    assert (whole / name).read_bytes() == (cut / name).read_bytes(), name
  assert {f.name for f in checkpoint.iterdir()} == {f.name for f in (whole / 'model').iterdir()}  # the same layout
  said = subprocess.run(
    [
      sys.executable,
      '-m',
      'internvl.chat',
      f'--model={cut}',
      '--prompt=A+(B+C)',
      f'--image={data.parent}/images/half0.png',
    ],
    capture_output=True,
    text=True,
    check=False,
  )
  assert said.returncode == 0 and said.stdout.endswith('\n'), said.stderr
