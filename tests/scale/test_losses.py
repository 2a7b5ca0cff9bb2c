"""Losses and gradients are the whole batch's on 1, 2, 4 and 8 devices and in any number of micro-batches."""

import json

import pytest

from rl.losses import RULES
from tests.scale.processes import join, spawn

SCRIPT = """
import dataclasses, json
import jax, jax.numpy as jnp, numpy as np, optax
from core import mesh
from core.training import steps as training
from rl import advantages, losses

rng = np.random.default_rng(0)
rows, t, v = 32, 6, 7
batch = {'tokens': rng.integers(0, v, (rows, t)), 'old': rng.normal(-2, 0.3, (rows, t)).astype(np.float32),
         'mask': np.arange(t) < rng.integers(0, t + 1, (rows, 1)),  # rows of every length, and some of none
         'advantages': rng.normal(size=(rows, 1)).astype(np.float32)}
mask = np.arange(t) < rng.integers(1, t + 1, (rows, 2, 1))
pairs = {'tokens': rng.integers(0, v, (rows, 2, t)), 'mask': mask,
         'reference': rng.normal(-12, 3, (rows, 2)).astype(np.float32),
         'weight': np.asarray(losses.token_weight_of(mask))}
params = {'w': rng.normal(size=(t, v)).astype(np.float32)}  # on the host, since a step donates its state
logp_of = lambda params, tokens: jax.nn.log_softmax(params['w'])[jnp.arange(t), tokens]

def policy(rule):
  return lambda params, b, key: losses.policy_loss(logp_of(params, b['tokens']), b['old'], b['advantages'], b['mask'],
                                                   rule=rule)

def fresh(params, b, key):
  return losses.policy_loss(logp_of(params, b['tokens']), None, b['advantages'], b['mask'], rule=losses.RULES['dapo'])

def mpo(params, b, key, shift):
  return losses.mpo(logp_of(params, b['tokens']), b['mask'], b['reference'], shift, token_weight=b['weight'])

def step(loss, data, devices, accumulate, carry=None):
  on = mesh.make(devices=jax.devices()[:devices])
  tx = optax.sgd(1.0)
  with jax.set_mesh(on):
    place = jax.device_put(params, jax.NamedSharding(on, jax.P()))
    state, metrics = training.make_step(loss, tx, accumulate=accumulate)(
        training.init_state(place, tx, carry), None, mesh.to_global(data, on), jax.random.key(0))
  return jax.device_get((state.params, state.carry, metrics))

report = {}
splits = [(1, 1), (1, 2), (1, 4), (2, 2), (4, 4), (8, 1), (8, 4)]  # devices, micro-batches
cases = {name: (policy(dataclasses.replace(rule, clip_low=0.2, clip_high=0.28)), batch, None)
         for name, rule in losses.RULES.items()}
cases['mpo'] = (mpo, pairs, losses.RewardShift.new())
for name, (loss, data, carry) in cases.items():
  got = {s: step(loss, data, *s, carry) for s in splits}
  if name == 'mpo':  # the preference terms see the shift of each micro-batch; what they leave behind is the same
    whole = lambda out: (out[1], out[2]['generation'], out[2]['preference'])
    got = {s: whole(out) if s[1] > 1 else out for s, out in got.items()}
    gaps = [np.abs(np.asarray(x) - y).max() for s in splits
            for x, y in zip(jax.tree.leaves(got[s]), jax.tree.leaves(got[1, s[1]]))]
    gaps += [np.abs(np.asarray(x) - y).max() for s in splits if s[1] > 1
             for x, y in zip(jax.tree.leaves(got[s]), jax.tree.leaves(whole(got[1, 1])))]
  else:
    gaps = [np.abs(np.asarray(x) - y).max() for s in splits
            for x, y in zip(jax.tree.leaves(got[s]), jax.tree.leaves(got[1, 1]))]
  report[name] = float(max(gaps))
first = [step(fresh, batch, *s)[2] for s in splits]
report['ratio'] = [float(m['ratio']) for m in first]
report['clipped'] = [float(m['clipped']) for m in first]

gains = []
for d in (1, 2, 4, 8):
  on = mesh.make(devices=jax.devices()[:d])
  with jax.set_mesh(on):
    kinds = mesh.to_global(np.random.default_rng(1).normal(size=(16, 4, 2)).astype(np.float32), on)
    gains.append(np.asarray(jax.jit(advantages.gdpo)(kinds, jnp.array([1.0, 0.5]))))
report['gdpo'] = float(max(np.abs(g - gains[0]).max() for g in gains))
print(json.dumps(report))
"""


@pytest.mark.slow
def test_eight_devices_and_micro_batches_equal_one_of_each():
  ((out, _),) = join(spawn(SCRIPT, devices=8), limit=600)
  report = json.loads(out.splitlines()[-1])
  assert set(report.pop('ratio')) == {1.0} and set(report.pop('clipped')) == {0.0}
  assert set(report) >= set(RULES) and len(report) == len(RULES) + 2
  assert max(report.values()) <= 1e-6, report
