"""Kernels compiled for a TPU that is not here."""

import functools

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from core.plan import chips

TOPOLOGIES = ['v5e:2x2', 'v5p:2x2x1', 'v6e:2x2', 'tpu7x:2x2x1']


@functools.cache
def device(topology: str):
  """The first device of a topology."""
  return chips.devices(topology)[0]


def compile_for(topology: str, function, *shapes):
  """`function` of abstract arrays, compiled for one device of a topology."""
  mesh = jax.sharding.Mesh(np.array([device(topology)]), ('x',))
  where = NamedSharding(mesh, PartitionSpec())
  arguments = jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=where), shapes)
  with jax.set_mesh(mesh):
    return jax.jit(function).lower(*arguments).compile()
