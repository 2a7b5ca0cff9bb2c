"""Eight fake devices and two processes compute what one device computes: transformers, win rates, whole updates."""

import json

import numpy as np
import pytest

from tests.scale.processes import join, spawn

PROGRAM = """
import json, sys
import jax, numpy as np
from core import mesh as mesh_lib
from rl.flow import mmdit
from tests.rl.flow import tiny

config, params = tiny.transformer(sys.argv[1])
arrays = tiny.inputs(config, batch=4, rows=4, columns=4)

def loss(params, arrays):
  v = mmdit.apply(params, config, **arrays, remat_policy='full').velocity
  return (v ** 2).mean(), v

run = lambda: jax.jit(jax.value_and_grad(loss, has_aux=True))
(_, one), gradient = run()(params, arrays)
on = mesh_lib.make(data=4, model=2)
placed = jax.device_put(params, mesh_lib.shardings(mmdit.spec(config), on))
with jax.set_mesh(on):
  (_, eight), sharded = run()(placed, mesh_lib.to_global(arrays, on))
gap = lambda a, b: float(np.abs(np.asarray(a) - np.asarray(b)).max())
largest = max(float(np.abs(g).max()) for g in jax.tree.leaves(gradient))
print(json.dumps({
  'split': sum(not w.sharding.is_fully_replicated for w in jax.tree.leaves(placed)),
  'velocity': gap(one, eight) / float(np.abs(one).max()),
  'gradient': max(map(gap, jax.tree.leaves(gradient), jax.tree.leaves(sharded))) / largest,
}))
"""


@pytest.mark.slow
@pytest.mark.parametrize('name', ['tiny', 'tiny-flux'])
def test_eight_devices_are_one(name):
  ((out, _),) = join(spawn(PROGRAM, name, devices=8), limit=300)
  got = json.loads(out)
  assert got['split'] > 20
  assert got['velocity'] < 1e-5 and got['gradient'] < 1e-5


RUN = "import runpy; runpy.run_module('tests.scale.flow_run', run_name='__main__')"


def run_of(folder, *, stop=0, devices=1, count=1):
  """The metrics of each rollout of a run in `folder`, and what each process compared."""
  join(spawn(RUN, str(folder), str(stop), devices=devices, count=count), limit=300, code=9 if stop else 0)
  if stop:
    return None
  metrics = [json.loads(line) for line in (folder / 'metrics.jsonl').read_text().splitlines()]
  return metrics, [dict(np.load(f'{folder}.compared.{i}.npz')) for i in range(count)]


@pytest.fixture(scope='module')
def alone(tmp_path_factory):
  """(folder, what `run_of` returns) of a run on one device."""
  folder = tmp_path_factory.mktemp('flow') / 'alone'
  return folder, run_of(folder)


@pytest.mark.slow
@pytest.mark.parametrize('machine', [{'devices': 8}, {'count': 2}], ids=['eight devices', 'two processes'])
def test_win_rates_and_advantages_do_not_depend_on_the_machine(alone, tmp_path, machine):
  """Bit by bit in the first rollout; later ones have weights that were summed in another order."""
  _, (one, (compared,)) = alone
  other, parts = run_of(tmp_path / 'run', **machine)
  assert compared['rewards'][0, ..., 0].std() > 0.05  # the images of a group differ, and the judge sees it
  for part in parts:
    assert np.array_equal(part['rewards'][0], compared['rewards'][0])
    assert np.array_equal(part['gdpo'][0], compared['gdpo'][0])
  for i, part in enumerate(parts):
    assert np.array_equal(part['grpo'][0], compared['grpo'][0][i :: len(parts)])
  for key, tolerance in {'reward': 0, 'loss': 1e-5, 'grad_norm': 1e-4, 'sampler_gap': 1e-5}.items():
    both = ([m[key] for m in metrics] for metrics in (other, one))
    np.testing.assert_allclose(*both, rtol=tolerance, atol=tolerance, err_msg=key)


@pytest.mark.slow
def test_a_killed_run_goes_on_bit_by_bit_and_asks_nothing_twice(alone, tmp_path):
  """Killed while the judge answers the third rollout: weights, averaged weights, metrics and questions are those."""
  whole, (_, (compared,)) = alone
  cut = tmp_path / 'cut'
  asked = lambda folder: len(folder.with_name(f'{folder.name}.asked.0').read_text().splitlines())
  total = asked(whole)
  assert total > 3 * 16 * 6 * 0.9  # questions about equal images are cached as well
  run_of(cut, stop=int(0.8 * total))
  assert asked(cut) < total
  _, (again,) = run_of(cut)
  assert asked(cut) == total
  assert np.array_equal(again['gdpo'][-1], compared['gdpo'][-1])
  for name in ('metrics.jsonl', 'results.json', 'model/diffusion_pytorch_model.safetensors'):
    assert (whole / name).read_bytes() == (cut / name).read_bytes(), name
