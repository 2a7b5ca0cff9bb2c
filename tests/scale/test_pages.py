"""Attention over pages on several devices is that on one; on a mesh of nothing but key heads each computes its own."""

import json
import textwrap

from tests.scale.processes import join, spawn

PROGRAM = textwrap.dedent("""
  import json
  import jax, jax.numpy as jnp, numpy as np
  from core import mesh
  from core.attention import Keys
  from core.past.pages import Pages
  from kernels.tree.plan import plan

  size = 4
  r = np.random.default_rng(0)
  draw = lambda *shape: jnp.asarray(r.normal(size=shape), jnp.float32)
  layer, sinks = (draw(3, 2, 8, size), draw(3, 2, size, 8)), draw(4)
  q, new = draw(2, 1, 4, 8), Keys(draw(2, 2, 1, 8), draw(2, 2, 1, 8))
  rows = plan([[0, 1], [0, 2]], [6, 7], page_size=size)
  cache = Pages(None, None, rows, np.array([1, 2]), np.array([1, 2]))

  def attend(layer, q, new, sinks):
    return cache.attend(layer, q, new, sinks=sinks, window=5)[0]

  arguments = layer, q, new, sinks
  want = attend(*arguments)
  found = {}
  for name, shape in {'heads': {'data': 1, 'model': 2}, 'rows too': {'data': 2, 'model': 2}}.items():
    devices = jax.devices()[: shape['data'] * shape['model']]
    with jax.set_mesh(mesh.make(**shape, devices=devices)):
      by_device = 'shard_map' in str(jax.make_jaxpr(attend)(*arguments))
      gap = np.abs(jax.jit(attend)(*arguments) - want).max()
    found[name] = [by_device, float(gap)]
  print(json.dumps(found))
""")


def test_devices_attend_with_their_own_key_heads():
  ((out, _),) = join(spawn(PROGRAM, devices=4), limit=200)
  found = json.loads(out.splitlines()[-1])
  assert [by_device for by_device, _ in found.values()] == [True, False]
  assert max(gap for _, gap in found.values()) < 1e-6
