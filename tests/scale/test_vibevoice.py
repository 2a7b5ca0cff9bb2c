"""Eight fake devices speak what one speaks: rows over data, heads and hidden units over model."""

import json

import pytest

from tests.scale.processes import join, spawn

PROGRAM = """
import json
import jax, numpy as np
from core import mesh as mesh_lib
from tests.vibevoice import tiny
from vibevoice import model
from vibevoice.generation import Given, begin

FRAMES = 5
rng = np.random.default_rng(0)
slots = [tiny.CONFIG.slot] * FRAMES
tokens = np.array([slots, slots, [*slots[:2], tiny.CONFIG.end, tiny.CONFIG.start, tiny.CONFIG.slot], slots], np.int32)
noise = rng.standard_normal((4, FRAMES, tiny.CONFIG.head.latent)).astype(np.float32)
inputs = [tiny.prompt(n, seed=n) for n in (9, 14, 11, 12)]

def speak(params):
  given = Given(noise=noise, tokens=tokens)
  made = begin(params, tiny.CONFIG, inputs, steps=2, limit=FRAMES, given=given, smallest_cache=64)
  frames = list(made.frames())
  return np.stack([f.samples for f in frames]), np.stack([f.spoken for f in frames])

one, said = speak(tiny.params())
on = mesh_lib.make(data=4, model=2)
placed = jax.device_put(tiny.params(), mesh_lib.shardings(model.spec(tiny.CONFIG), on))
with jax.set_mesh(on):
  eight, also = speak(placed)
print(json.dumps({
  'split': sum(not w.sharding.is_fully_replicated for w in jax.tree.leaves(placed)),
  'said': bool((said == also).all()) and said.sum().item(),
  'gap': float(np.abs(one - eight)[said].max() / one[said].std()),
}))
"""


@pytest.mark.slow
def test_eight_devices_speak_as_one():
  ((out, _),) = join(spawn(PROGRAM, devices=8), limit=400)
  got = json.loads(out)
  assert got['split'] > 20 and got['said'] == 18
  assert got['gap'] < 1e-4
