"""Training over processes and over devices is training on one."""

import json
import signal
import textwrap
import time

import numpy as np
import pytest

from tests.scale.processes import join, spawn

PROGRAM = textwrap.dedent("""
  import os, sys, time
  sys.modules['torch'] = None                # tensorboardX would load it, where there is one, and not use it
  import grain, jax, jax.numpy as jnp, numpy as np, optax
  from core import mesh, params
  from core.training import data, optim, steps as training
  from core.training.run import Run, loop

  workdir, steps, pause = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
  many = int(os.environ['PROCESSES'])
  if many > 1:
    mesh.start(os.environ['COORDINATOR'], many, int(os.environ['PROCESS']))
  place = mesh.make()
  spec = {'a': params.Spec((8, 16), ('embed', 'mlp')), 'b': params.Spec((16, 8), ('mlp', 'embed')),
          'norm': params.Spec((16,), (None,), params.ones)}
  weights = jax.jit(lambda key: params.init(key, spec), out_shardings=mesh.shardings(spec, place))(
    jax.random.key(0))

  def loss_fn(w, batch, key):
    h = jnp.tanh(batch['x'] @ w['a']) * w['norm'] @ w['b'] - batch['x'] ** 2
    weight = 1 + batch['n']
    return training.Loss((weight * (h ** 2).mean(-1)).sum(), weight.sum(), {'n': (weight.sum(), 8.0)})

  tx = optim.optimizer(optim.Optim(lr=1e-2, weight_decay=0.1, warmup_steps=2), steps, spec)
  state = training.init_state(weights, tx)
  step = training.make_step(loss_fn, tx, accumulate=2, places=jax.tree.map(lambda x: x.sharding, state))
  moments = optax.tree.get(state.opt_state, 'mu')
  assert all(moments[k].sharding == weights[k].sharding for k in spec)

  r = np.random.default_rng(0)
  rows = [{'x': r.normal(size=8).astype('f'), 'n': np.float32(i % 3)} for i in range(64)]
  batches = data.batches(data.mix({'rows': (rows, 1.0)}, seed=0).to_iter_dataset(), 16 // many)

  def advance(state, i):
    time.sleep(pause)
    batch = mesh.to_global(next(batches), place)
    return step(state, None, batch, jax.random.key(i))

  with jax.set_mesh(place), Run(workdir, {'steps': steps}, every=4) as run:
    state = loop(run, state, advance, steps, host={'data': batches})
    assert step._cache_size() == 1
    whole = {k: mesh.to_local(v) for k, v in state.params.items()}
  if jax.process_index() == 0:
    np.savez(workdir + '/w.npz', **whole)
""")
STEPS = '12'


def losses(workdir):
  return [json.loads(line)['loss'] for line in (workdir / 'metrics.jsonl').read_text().splitlines()]


@pytest.fixture(scope='module')
def alone(tmp_path_factory):
  workdir = tmp_path_factory.mktemp('alone')
  join(spawn(PROGRAM, str(workdir), STEPS, '0'))
  return workdir


def check_equal(alone, workdir):
  assert len(losses(alone)) == int(STEPS) and losses(alone)[-1] < losses(alone)[0]
  np.testing.assert_allclose(losses(workdir), losses(alone), rtol=1e-5)
  one, many = np.load(alone / 'w.npz'), np.load(workdir / 'w.npz')
  for name in one:
    np.testing.assert_allclose(many[name], one[name], rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_eight_devices_train_as_one(alone, tmp_path):
  join(spawn(PROGRAM, str(tmp_path), STEPS, '0', devices=8))
  check_equal(alone, tmp_path)


@pytest.mark.slow
def test_two_processes_train_as_one_through_a_stop(alone, tmp_path):
  """SIGTERM reaches one process only; both agree on the step to stop after, save it, and resume from it later."""
  pair = spawn(PROGRAM, str(tmp_path), STEPS, '0.2', count=2)
  while not (tmp_path / 'metrics.jsonl').exists() or len(losses(tmp_path)) < 2:
    assert all(p.poll() is None for p in pair), [p.communicate() for p in pair]
    time.sleep(0.05)
  pair[1].send_signal(signal.SIGTERM)
  said = [err for _, err in join(pair, code=143)]
  stopped = len(losses(tmp_path))
  assert 2 <= stopped < int(STEPS)
  assert all(f'SIGTERM: stopped after step {stopped}' in err for err in said)
  join(spawn(PROGRAM, str(tmp_path), STEPS, '0', count=2))
  check_equal(alone, tmp_path)


ROWS = textwrap.dedent("""
  import os
  import jax, numpy as np
  from core import mesh

  mesh.start(os.environ['COORDINATOR'], 2, int(os.environ['PROCESS']))
  me, spread, home = jax.process_index(), mesh.make(), mesh.share(1, model=2).mesh
  equal = np.testing.assert_array_equal

  assert list(mesh.process_local(range(6))) == list(range(3 * me, 3 * me + 3))
  assert list(mesh.process_local(range(6), home)) == list(range(6))

  rows = {'a': np.arange(6, dtype=np.float32).reshape(3, 2) + 10 * me, 'b': np.array([me] * 3)}
  whole = mesh.gather(rows, spread)
  equal(whole['a'][:, 0], [0, 2, 4, 10, 12, 14])
  equal(whole['b'], [0, 0, 0, 1, 1, 1])
  equal(mesh.gather(rows, home)['a'], rows['a'])

  # Sums are exact in float64, where float32 would lose the last bits.
  sums = mesh.sum_over_processes({'n': 2**40 + me, 'pair': np.array([0.25, me])})
  assert sums['n'] == 2**41 + 1 and sums['pair'].tolist() == [0.5, 1.0]
  assert mesh.sum_over_processes({'n': me}, home)['n'] == me

  # Rows stay where they are, or go to where devices of both processes hold parts of the same ones.
  a, b = np.reshape(jax.devices(), (2, 2))
  across = mesh.make(data=2, seq=2, devices=[a[0], b[0], a[1], b[1]])
  for place in (mesh.make(data=4), mesh.make(data=2, model=2), across, mesh.make(model=4)):
    x = mesh.to_global({'a': rows['a'][:2]}, place)['a']
    assert x.sharding == mesh.batch_sharding(x, place)
    equal(mesh.to_local(x), whole['a'][[0, 1, 3, 4]])
    for part in x.addressable_shards:
      equal(part.data, whole['a'][[0, 1, 3, 4]][part.index])

  # Row i of process p is row 2 i + p; there may be one only, of one process.
  deal = np.arange(3) * 2 + me
  for want in (range(0, 6), range(0, 4), range(1, 2), range(2, 3), range(3, 6)):
    equal(mesh.to_local(mesh.interleave(deal, want, spread)), want)
""")


@pytest.mark.slow
def test_rows_are_shared_gathered_and_dealt():
  join(spawn(ROWS, devices=2, count=2))
