"""One rollout engine over two processes: tokens are those of one process."""

import json
import textwrap

import numpy as np
import pytest

from tests.scale.processes import join, spawn

PROGRAM = textwrap.dedent("""
  import dataclasses, json, os
  from core import mesh
  many = int(os.environ['PROCESSES'])
  if many > 1:
    mesh.start(os.environ['COORDINATOR'], many, int(os.environ['PROCESS']))
  import jax, numpy as np
  import internvl
  from core.engine import Engine, Request
  from internvl.features import Images

  tiny = internvl.CONFIGS['tiny']
  config = dataclasses.replace(tiny, language=dataclasses.replace(tiny.language, depth=1, tied=False, max_length=64),
                               vision=dataclasses.replace(tiny.vision, depth=1))
  place = mesh.make(model=many)
  make = lambda key: jax.tree.map(lambda w: 5 * w if w.ndim > 1 else w, internvl.init(key, config))
  params = jax.jit(make, out_shardings=mesh.shardings(internvl.spec(config), place))(jax.random.key(0))
  sizes = {'slots': 3, 'pages': 30, 'page_size': 4, 'segment': 4, 'chunk': 16}
  images = Images(params, config, place)
  e = Engine(params.language, config.language, features=images, mesh=place, **sizes)
  assert all(k.sharding.shard_shape(k.shape)[1] == 2 // many for k in e._programs.k + e._programs.v)

  r = np.random.default_rng(0)
  side, image = config.vision.image_size, [config.image_token] * config.tokens_per_tile
  tiles = r.standard_normal((1, side, side, 3)).astype(np.float32)
  e.submit(Request(r.integers(0, 250, 17).tolist(), 20, n=2))
  ids = e.submit(Request(r.integers(0, 250, 9).tolist(), 20, n=2, temperature=1.0, top_p=0.9, seed=7))
  e.submit(Request([5, *image, 6], 8, n=2, temperature=1.0, seed=1, media=[tiles], priority=1))
  done = [*e.step(), *e.step()]
  e.fork(ids[0], seed=11)
  while not e.idle:
    done += e.step()
  e.update(params)
  e.submit(Request([1, 2, 3], 12, temperature=1.0, allowed=np.arange(300) % 2 == 0))
  done += e.run()
  logp = [x for c in done for x in c.logp.tolist()]
  e.scheduler.cache.clear()
  print(json.dumps({'tokens': [(c.id, c.tokens.tolist()) for c in done], 'logp': logp, 'free': e.scheduler.pool.free,
                    'preempted': e.scheduler.preempted}))
""")


@pytest.mark.slow
def test_an_engine_over_two_processes_samples_as_one():
  """Greedy and drawn tokens, forks, images, preemptions and new weights; and every page comes back."""
  (alone,) = (json.loads(out) for out, _ in join(spawn(PROGRAM), limit=300))
  pair = [json.loads(out.splitlines()[-1]) for out, _ in join(spawn(PROGRAM, count=2), limit=300)]
  assert pair[0] == pair[1]
  assert pair[0]['tokens'] == alone['tokens'] and len({len(t) for _, t in alone['tokens']}) > 2
  np.testing.assert_allclose(pair[0]['logp'], alone['logp'], rtol=1e-4, atol=1e-4)
  assert pair[0]['free'] == alone['free'] == 30 and pair[0]['preempted'] == alone['preempted'] > 0


BESIDE = textwrap.dedent("""
  import os
  from core import mesh
  mesh.start(os.environ['COORDINATOR'], 2, int(os.environ['PROCESS']))
  import jax, numpy as np
  from core import decoder
  from core.params import dense
  from core.engine import layout

  config = decoder.CONFIGS['tiny']
  home, spread = mesh.share(1, model=2), mesh.make()
  draw = lambda key: decoder.init(key, config)
  trained = jax.jit(draw, out_shardings=mesh.shardings(decoder.spec(config), spread))(jax.random.key(0))
  laid = layout.lay(trained, config, home)
  assert (home.index, home.count) == (jax.process_index(), 2)
  assert {d.process_index for d in laid.embed.sharding.device_set} == {home.index}
  q = laid.blocks[1].attn.q
  assert q.matrix.is_fully_addressable and q.matrix.sharding.shard_shape(q.matrix.shape) == (2 * 24, 64)
  np.testing.assert_array_equal(dense(q), mesh.to_local(trained.blocks.attn.q)[1])
  np.testing.assert_array_equal(laid.embed, mesh.to_local(trained.embed))
""")


@pytest.mark.slow
def test_engines_beside_each_other_get_the_trained_weights():
  join(spawn(BESIDE, devices=2, count=2), limit=300)
