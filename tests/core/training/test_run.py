"""Interrupted equals uninterrupted, bit for bit; and refusals that name what is wrong."""

import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import textwrap
import time
from collections import namedtuple

import grain
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core.training import record
from core.training.run import Run, differences, loop

ROOT = pathlib.Path(__file__).parents[3]

PROGRAM = textwrap.dedent('''
  import sys, time
  sys.modules['torch'] = None                # tensorboardX would load it, where there is one, and not use it
  import numpy as np, jax, jax.numpy as jnp, grain
  from core.params import Spec
  from core.training import optim, steps as training
  from core.training.run import Run, loop

  workdir, steps, pause = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
  data = iter(grain.MapDataset.range(1000).seed(3).shuffle().repeat().to_iter_dataset().batch(4))

  class Cursor:
    """Host state of the other kind: bytes."""
    seen = 0
    def get_state(self): return self.seen.to_bytes(8, 'big')
    def set_state(self, state): self.seen = int.from_bytes(state, 'big')
  cursor = Cursor()

  def loss_fn(params, batch, key):
    x = batch['x'] / 1000 + 0.1 * jax.random.normal(key, batch['x'].shape)
    return training.Loss(jnp.square(x @ params['w'] - batch['x'] / 500).sum(), jnp.float32(4))

  tx = optim.optimizer(optim.Optim(lr=1e-2, schedule='constant'), steps, {'w': Spec((4, 4), (None, None))})
  step = training.make_step(loss_fn, tx)
  state = training.init_state({'w': jnp.zeros((4, 4))}, tx)

  def advance(state, i):
    batch = {'x': jnp.asarray(next(data), jnp.float32)[None]}
    cursor.seen += 4
    time.sleep(pause)
    state, metrics = step(state, None, batch, jax.random.fold_in(jax.random.key(0), i))
    return state, metrics | {'seen': cursor.seen}

  with Run(workdir, {'steps': steps}, every=3) as run:
    print('ready', flush=True)
    state = loop(run, state, advance, steps, host={'data': data, 'cursor': cursor})
  np.save(workdir + '/w.npy', state.params['w'])
''')


def start(workdir, steps=40, pause=0.0):
  env = os.environ | {'PYTHONPATH': str(ROOT), 'JAX_PLATFORMS': 'cpu'}
  return subprocess.Popen(
    [sys.executable, '-c', PROGRAM, str(workdir), str(steps), str(pause)],
    env=env,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def finish(process, code=0):
  _, err = process.communicate(timeout=100)
  assert process.returncode == code, err
  return err


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  """The run that nothing interrupts."""
  workdir = tmp_path_factory.mktemp('whole')
  finish(start(workdir))
  return workdir


def same(a, b):
  assert (a / 'metrics.jsonl').read_bytes() == (b / 'metrics.jsonl').read_bytes()
  assert (a / 'w.npy').read_bytes() == (b / 'w.npy').read_bytes()


def lines(workdir):
  path = workdir / 'metrics.jsonl'
  return path.read_text().count('\n') if path.exists() else 0


@pytest.mark.slow
def test_killed_at_random_moments_equals_uninterrupted(whole, tmp_path):
  # Once while it starts, then wherever a few more steps have brought it: in a step, a write or a save.
  chance = random.Random(0)
  reached = 0
  for more in (0, *(chance.randint(1, 9) for _ in range(5))):
    process = start(tmp_path, pause=0.01)
    process.stdout.readline()
    while lines(tmp_path) < reached + more and process.poll() is None:
      time.sleep(0.001)
    time.sleep(chance.uniform(0, 0.03))
    process.kill()
    finish(process, -signal.SIGKILL)
    reached = lines(tmp_path)
  assert 5 <= reached < 40
  finish(start(tmp_path))
  same(whole, tmp_path)


@pytest.mark.slow
def test_a_signal_saves_the_step_and_leaves(whole, tmp_path):
  stopped = 0
  for number, code in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
    process = start(tmp_path, pause=0.1)
    while lines(tmp_path) < stopped + 4 and process.poll() is None:
      time.sleep(0.02)
    process.send_signal(number)
    err = finish(process, code)
    before, stopped = stopped, lines(tmp_path)
    assert before + 4 <= stopped < 40
    assert f'{number.name}: stopped after step {stopped}, saved in {tmp_path}' in err
    assert (tmp_path / 'checkpoints' / str(stopped)).is_dir()
  finish(start(tmp_path))
  same(whole, tmp_path)


@pytest.mark.slow
def test_metrics_are_deterministic_numbers(whole):
  rows = [json.loads(line) for line in (whole / 'metrics.jsonl').read_text().splitlines()]
  assert [row['step'] for row in rows] == list(range(1, 41))
  assert rows[-1]['seen'] == 160 and rows[0].keys() == {'step', 'loss', 'weight', 'grad_norm', 'skipped', 'lr', 'seen'}
  assert json.loads((whole / 'config.json').read_text()) == {'steps': 40}
  assert any((whole / 'events').iterdir())


# In process: cheap cases with a state of one array.


def count(state, i):
  return {'x': state['x'] + i}, {'x': state['x'].sum()}


def go(workdir, steps, config=None, state=None, advance=count, **options):
  with Run(workdir, config or {'a': {'b': 1}}, **options) as run:
    return loop(run, state or {'x': jnp.zeros(3)}, advance, steps)


def test_a_longer_run_goes_on_and_old_checkpoints_go(tmp_path):
  go(tmp_path, 4, every=1, keep=2)
  assert sorted(p.name for p in (tmp_path / 'checkpoints').iterdir() if p.name.isdigit()) == ['3', '4']
  np.testing.assert_array_equal(go(tmp_path, 6)['x'], np.full(3, 15.0))
  np.testing.assert_array_equal(go(tmp_path, 6)['x'], np.full(3, 15.0))
  assert lines(tmp_path) == 6


def test_metrics_are_fetched_one_step_late(tmp_path):
  seen = []

  def advance(state, i):
    seen.append(lines(tmp_path))
    return count(state, i)

  go(tmp_path, 5, advance=advance)
  assert seen == [0, 0, 1, 2, 3] and lines(tmp_path) == 5


def test_another_config_is_refused_by_field(tmp_path):
  go(tmp_path, 1)
  with pytest.raises(ValueError, match=r'a\.b: 1, now 2; c: only now'):
    go(tmp_path, 1, {'a': {'b': 2}, 'c': 3})
  assert differences({'a': [1]}, {'a': [1]}) == []


def test_another_shape_or_name_is_refused_by_leaf(tmp_path):
  go(tmp_path, 1)
  with pytest.raises(ValueError, match=r"x: 'float32\[3\]', now 'float32\[4\]'"):
    go(tmp_path, 2, state={'x': jnp.zeros(4)})
  with pytest.raises(ValueError, match='x: only before; y: only now'):
    go(tmp_path, 2, state={'y': jnp.zeros(3)})
  with pytest.raises(ValueError, match=r"now 'bfloat16\[3\]'"):
    go(tmp_path, 2, state={'x': jnp.zeros(3, jnp.bfloat16)})


class Position:
  at = 0

  def get_state(self):
    return self.at

  def set_state(self, state):
    self.at = state


def test_host_state_of_other_names_or_processes_is_refused(tmp_path):
  def go_with(steps, **host):
    with Run(tmp_path, {}) as run:
      loop(run, {'x': jnp.zeros(3)}, count, steps, host=host)

  go_with(1, a=Position())
  with pytest.raises(ValueError, match=r"the checkpoint has host state \['a'\]: expected \['b'\]"):
    go_with(2, b=Position())
  saved = tmp_path / 'checkpoints' / '1' / 'host'
  (saved / 'process_1-of-2.json').write_text('{}')
  with pytest.raises(ValueError, match='has the host state of 2 processes: expected 1'):
    go_with(2, a=Position())


def numbers():
  """A data iterator with a state."""
  return iter(grain.MapDataset.range(100).seed(3).shuffle().repeat().to_iter_dataset().batch(2))


def test_a_step_that_raises_loses_no_step(tmp_path):
  """What is saved is the state before the step and the iterator as it was then, not as the step left it."""

  def train(workdir, fails_at=None):
    data, cursor = numbers(), Position()

    def advance(state, i):
      batch = next(data)
      cursor.at += int(batch.sum())
      if i == fails_at:
        raise ValueError(f'step {i} fails')
      state = {'x': jnp.sin(state['x'] * 3 + batch.sum())}
      return state, {'x': state['x'].sum(), 'seen': cursor.at}

    with Run(workdir, {}, every=100) as run:
      return loop(run, {'x': jnp.ones(3)}, advance, 9, host={'data': data, 'cursor': cursor})

  whole = train(tmp_path / 'whole')
  for fails_at in (0, 4, 4, 7):  # before anything is done, later, at once again, later again
    with pytest.raises(ValueError, match=f'step {fails_at} fails'):
      train(tmp_path / 'broken', fails_at)
    assert lines(tmp_path / 'broken') == fails_at
  resumed = train(tmp_path / 'broken')
  assert np.asarray(resumed['x']).tobytes() == np.asarray(whole['x']).tobytes()
  assert (tmp_path / 'broken/metrics.jsonl').read_bytes() == (tmp_path / 'whole/metrics.jsonl').read_bytes()


def test_a_state_that_the_failed_step_has_taken_over_is_not_saved(tmp_path):
  grow = jax.jit(lambda x: x + 1, donate_argnums=0)

  def advance(state, i):
    x = grow(state['x'])
    if i == 3:
      raise ValueError('after the update')
    return {'x': x}, {'x': x.sum()}

  with pytest.raises(ValueError, match='after the update'):
    go(tmp_path, 5, advance=advance, every=2)
  assert sorted(p.name for p in (tmp_path / 'checkpoints').iterdir()) == ['2']
  assert lines(tmp_path) == 3


def test_signals_are_ours_only_within_the_loop(tmp_path):
  before = signal.getsignal(signal.SIGTERM)
  seen = []
  go(tmp_path, 1, advance=lambda s, i: (seen.append(signal.getsignal(signal.SIGTERM)), count(s, i))[1])
  assert seen[0] is not before and signal.getsignal(signal.SIGTERM) is before


def test_a_workdir_that_cannot_be_written_is_named(tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.raises(OSError, match=r'workdir cannot be written: .*file/run'):
    go(tmp_path / 'file' / 'run', 1)


def test_a_full_disk_is_noticed_before_the_first_step(tmp_path, monkeypatch):
  monkeypatch.setattr('shutil.disk_usage', lambda _: namedtuple('Usage', 'free')(8))
  with pytest.raises(OSError, match='a checkpoint takes 12 bytes and 8 are free'):
    go(tmp_path, 1, advance=lambda state, i: pytest.fail('it started'))


def test_an_array_is_no_metric(tmp_path):
  with pytest.raises(ValueError, match=r"metric 'x' is float32\[3\]: expected a single number"):
    go(tmp_path, 2, advance=lambda state, i: (state, {'x': state['x']}))


def test_random_keys_can_be_state(tmp_path):
  split = lambda state, i: ({'k': jax.random.fold_in(state['k'], i)}, {})
  want = go(tmp_path / 'a', 3, state={'k': jax.random.key(1)}, advance=split)
  go(tmp_path / 'b', 2, state={'k': jax.random.key(1)}, advance=split)
  got = go(tmp_path / 'b', 3, state={'k': jax.random.key(1)}, advance=split)
  np.testing.assert_array_equal(jax.random.key_data(got['k']), jax.random.key_data(want['k']))


@pytest.mark.parametrize('tail', ['', '{"step": 3, "lo', '{"step": 3}', '{"step": 3}\n{"step": 4}\n', '\0\0\0'])
def test_cutting_back_drops_later_and_torn_lines(tmp_path, tail):
  path = tmp_path / 'metrics.jsonl'
  path.write_text('{"step": 1}\n{"step": 2}\n' + tail)
  record.cut(path, 2)
  assert path.read_text() == '{"step": 1}\n{"step": 2}\n'


def test_a_broken_line_inside_is_not_hidden(tmp_path):
  path = tmp_path / 'metrics.jsonl'
  path.write_text('{"step": 1}\n{"st\n{"step": 2}\n')
  with pytest.raises(ValueError, match=r'metrics\.jsonl:2 is not a metrics line'):
    record.cut(path, 2)


@pytest.mark.parametrize(
  'value, says',
  [
    (np.float32(0.1), 0.1),
    (jnp.bfloat16(0.5), 0.5),
    (np.int32(3), 3),
    (1e-30, 1e-30),
    (np.float32('nan'), None),
    (np.float32('inf'), None),
  ],
)
def test_numbers_are_the_shortest_that_read_back(value, says):
  assert record.scalar('x', value) == says
