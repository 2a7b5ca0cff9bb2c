"""Both stages of ViCO on eight devices are those on one."""

import json
import textwrap

import numpy as np
import pytest

from tests.scale.processes import join, spawn

SCRIPT = textwrap.dedent("""
  import dataclasses, json, pathlib, sys
  import jax, jax.numpy as jnp
  from core import mesh
  from core.training import steps
  from core.training.optim import Optim
  from internvl import model
  from internvl.training import sft
  from internvl.training.configs import Vico
  from tests.internvl.test_train import SAMPLES, row
  from tests.internvl.test_vico import C, ROUTING, flash

  # The samples repeat, so the 36, 72, … ratios are nine values. This percentile is between the fourth and the fifth of
  # them: at one of them, rounding would decide the labels.
  stages = {
    'consistency': dataclasses.replace(C, objective='consistency'),
    'routing': dataclasses.replace(ROUTING, vico=Vico(window=1024, percentile=44.5)),
  }
  c = dataclasses.replace(stages[sys.argv[2]], batch=8, accumulate=2, optim=Optim(lr=1e-3))
  batch = jax.tree.map(lambda *x: jnp.concatenate(x), *[row(SAMPLES[i % 3:] + SAMPLES[:i % 3], C) for i in range(8)])
  config, weights = flash(0)
  _, other = flash(1)
  logged = {}
  for name, place in ('one', mesh.make(devices=jax.devices()[:1])), ('eight', mesh.make(data=4, model=2)):
    with jax.set_mesh(place):
      homes = mesh.shardings(model.spec(config), place)
      params = jax.tree.map(lambda w, home: jax.device_put(jnp.copy(w), home), weights, homes)
      reference = jax.tree.map(lambda w, home: jax.device_put(jnp.copy(w), home), other, homes)
      trained, frozen = sft.adapt(c, config, params)
      state = steps.init_state(trained, sft.optimizer(c, config), sft.carry(c))
      step = sft.make_step(c, config, places=jax.tree.map(lambda x: x.sharding, state))
      rows = mesh.to_global(jax.tree.map(jax.device_get, batch), place)
      for i in range(2):
        state, metrics = step(state, frozen, rows, jax.random.key(i), reference.replace(compact=None, router=None))
        logged.setdefault(name, []).append({k: float(v) for k, v in metrics.items()})
  pathlib.Path(sys.argv[1]).write_text(json.dumps(logged))
""")


@pytest.mark.slow
@pytest.mark.parametrize('stage', ['consistency', 'routing'])
def test_eight_devices_equal_one(stage, tmp_path):
  join(spawn(SCRIPT, str(tmp_path / 'logged.json'), stage, devices=8), limit=600)
  logged = json.loads((tmp_path / 'logged.json').read_text())
  assert len(logged['one']) == len(logged['eight']) == 2
  for one, eight in zip(logged['one'], logged['eight']):
    assert one.keys() == eight.keys()
    np.testing.assert_allclose([eight[k] for k in one], list(one.values()), rtol=2e-3)
