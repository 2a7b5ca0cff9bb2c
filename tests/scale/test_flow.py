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


PUBLISHED = """
import dataclasses, os, pathlib, sys
from core import mesh
many, me = int(os.environ['PROCESSES']), int(os.environ['PROCESS'])
if many > 1:
  mesh.start(os.environ['COORDINATOR'], many, me)
from rl.flow.configs import CONFIGS
from rl.flow.files import pipeline
from rl.flow.policy import PathOptions
from rl.flow.published.train import learn
from rl.tasks import questions
from tests.rl.flow import tiny
from tests.rl.flow.test_published import brighter

model, workdir = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
if not model.exists():
  pipeline.save(model, *tiny.pipeline('flux', model.parent / 'tokenizers'))
config = dataclasses.replace(
  CONFIGS['pref_grpo_folder'], model=str(model), prompts=2, group=3, updates=1, steps=2, eval_queries=2, eval_every=1,
  save_every=1, rows=3, height=16, width=16, tokens=6, paths=PathOptions(steps=3, fraction=0.5), dtype='float32')
learn(config, workdir, questions(['a red square', 'a blue circle'], ['a small square', 'a green circle']), brighter)
"""


@pytest.mark.slow
def test_a_published_folder_trains_on_two_processes_as_on_one(tmp_path):
  """Each process encodes its own prompts and decodes its own images, while the transformer is spread over both."""
  curves = []
  for name, count in (('one', 1), ('two', 2)):
    join(spawn(PUBLISHED, str(tmp_path / 'model'), str(tmp_path / name), count=count), limit=300)
    lines = (tmp_path / name / 'metrics.jsonl').read_text().splitlines()
    curves.append([json.loads(line) for line in lines])
  for one, two in zip(*curves, strict=True):
    assert two['reward'] == one['reward'] == pytest.approx(0.5)
    for key in ('loss', 'grad_norm', 'sampler_gap'):
      assert two[key] == pytest.approx(one[key], rel=1e-4, abs=1e-5), key
