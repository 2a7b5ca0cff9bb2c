"""Eight fake devices compute what one computes: velocity and gradient of both families of transformers."""

import json

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
