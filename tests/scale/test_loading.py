"""Of a checkpoint each process reads what its devices hold."""

import textwrap

import jax
import numpy as np
import pytest

from core import decoder
from tests.scale.processes import join, spawn

PROGRAM = textwrap.dedent("""
  import os, sys
  import jax, numpy as np
  from core import decoder, mesh
  from core.files.store import Folder

  mesh.start(os.environ['COORDINATOR'], 2, int(os.environ['PROCESS']))
  sizes, fetch = [], Folder.fetch

  def counting(self, spans):
    for span, data in fetch(self, spans):
      sizes.append(len(data))
      yield span, data

  Folder.fetch = counting
  config, params = decoder.load(sys.argv[1], mesh=mesh.make(model=2))
  held = sum(shard.data.nbytes for w in jax.tree.leaves(params) for shard in w.addressable_shards)
  whole = sum(w.nbytes for w in jax.tree.leaves(params))
  print(sum(sizes), held, whole)
""")


@pytest.mark.slow
def test_two_processes_read_half_each(tmp_path):
  config = decoder.CONFIGS['tiny']
  r = np.random.default_rng(0)
  params = jax.tree.map(lambda s: r.standard_normal(s.shape, np.float32), decoder.spec(config))
  decoder.save(tmp_path, config, params)
  # Rows of the tiny model are far shorter than the gaps that are read through.
  program = 'from core.files import tensors\ntensors.GAP = 64\n' + PROGRAM
  for out, _ in join(spawn(program, f'file://{tmp_path}', count=2)):
    read, held, whole = map(int, out.split())
    assert held < 0.6 * whole
    assert held <= read <= held + 20_000  # and the header
