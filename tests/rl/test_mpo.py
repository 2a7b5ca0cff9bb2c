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
from core.launch.errors import USER_ERRORS
from internvl.training.export import export
from rl import configs, mpo, preference
from rl.mpo import CONFIGS, Config
from tests.rl.test_preference import digits_pairs, over_bytes


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory) -> pathlib.Path:
  """A tiny checkpoint in layout A, as those of OpenGVLab."""
  processor = over_bytes()
  config = dataclasses.replace(internvl.CONFIGS['tiny'], image_token=processor.image_id)
  folder = tmp_path_factory.mktemp('start') / 'model'
  export(folder, config, internvl.init(jax.random.key(0), config), processor, layout='A')
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
  parts = mpo.pairs(config, internvl.Processor.load(checkpoint))
  assert {name: (len(examples), repeat) for name, (examples, repeat) in parts.items()} == {
    'twice': (6, 2.0),
    'half': (4, 1.0),
  }
  needs = preference.measure(parts['half'][0])
  assert needs.shape == (4, 3) and (needs[:, 2] == 3).all()


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
  assert c.sizes.prompt + c.sizes.answer == 16384


def test_a_warm_up_that_does_not_end_is_refused_before_any_phase_begins():
  with pytest.raises(ValueError, match=r'optim\.warmup_steps=24: expected fewer than steps=20'):
    Config(steps=20)
  with pytest.raises(ValueError, match=r'optim\.warmup_steps=5: expected fewer than its 4 updates'):
    configs.Config(steps=2, updates=2)


def start(checkpoint, data, workdir) -> subprocess.Popen:
  flags = {
    'model': checkpoint,
    'data': data,
    'steps': 12,
    'batch': 4,
    'accumulate': 2,
    'rooms': 2,
    'sizes.prompt': 64,
    'sizes.answer': 64,
    'sizes.tiles': 3,
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
  assert process.returncode == 0 and 'internvl.chat' in out, err
  first, last = steps(whole)[0], steps(whole)[-1]
  assert first['preference'] == pytest.approx(np.log(2), abs=1e-4) and last['preference'] < np.log(2) - 0.01
  process, deadline = start(checkpoint, data, cut), time.monotonic() + 900
  while len(steps(cut)) < 5 and process.poll() is None and time.monotonic() < deadline:
    time.sleep(0.02)
  process.send_signal(signal.SIGKILL)
  process.communicate()
  assert len(steps(cut)) >= 5 and not (cut / 'model').exists()
  out, err = (process := start(checkpoint, data, cut)).communicate(timeout=900)
  assert process.returncode == 0 and 'going on after step' in err, err
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
