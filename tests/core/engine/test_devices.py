"""Greedy tokens of the engine on eight fake devices are those on one."""

import pytest

from tests.scale.processes import join, spawn

SCRIPT = """
import dataclasses
import jax, numpy as np
from core import decoder, mesh, moe
from core.engine import Engine, Request

assert jax.device_count() == 8
config = dataclasses.replace(decoder.CONFIGS['tiny'], vocab=40, max_length=64, heads=4, kv_heads=2,
                             moe=moe.Config(4, 2, 32))
params = jax.tree.map(lambda w: w * 8, decoder.init(jax.random.key(0), config))

def run(params, **shape):
  on = mesh.make(**shape) if shape else mesh.make(devices=jax.devices()[:1])
  params = jax.device_put(params, mesh.shardings(decoder.spec(config), on))
  e = Engine(params, config, slots=4, pages=30, page_size=4, segment=4, chunk=8, top_logprobs=2)
  assert all(k.sharding.shard_shape(k.shape)[1] == 2 // shape.get('model', 1) for k in e._programs.k + e._programs.v)
  q, up = e._programs.params.blocks[0].attn.q, e._programs.params.blocks[0].mlp.up
  # A matrix whose rows are heads, unless one CPU device multiplies it piece by piece.
  q = q.matrix if shape else q.values.reshape(64, -1).T
  assert q.sharding.shard_shape(q.shape) == (4 // shape.get('model', 1) * 24, 64)
  assert up.sharding.shard_shape(up.shape) == (4 // shape.get('expert', 1), 64, 32 // shape.get('model', 1))
  for i, n in enumerate((3, 17, 9)):
    e.submit(Request(np.random.default_rng(i).integers(0, 40, n).tolist(), 12, n=2, top_logprobs=2))
  done, likeliest = [], {}
  while not e.idle:
    done += e.step(lambda id, tokens, logp, top: likeliest.setdefault(id, []).extend(top))
  done.sort(key=lambda c: c.id)
  first = [c.tokens.tolist() for c in done]
  assert [[top[0][0] for top in likeliest[c.id]] for c in done] == first  # greedy
  e.update(params)
  e.submit(Request([1, 2, 3], 12))
  return first, [c.tokens.tolist() for c in e.run()]

want = run(params)
assert len(want[0]) == 6
assert run(params, data=2, expert=2, model=2) == want
print('equal')
"""


@pytest.mark.slow
def test_greedy_tokens_do_not_depend_on_the_number_of_devices():
  ((out, _),) = join(spawn(SCRIPT, devices=8), limit=600)
  assert out.strip() == 'equal'
