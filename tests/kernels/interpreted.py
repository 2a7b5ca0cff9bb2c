"""jax's interpreter of Mosaic GPU kernels, which is private: asynchronous copies, barriers and wgmma on a CPU."""

import contextlib

import jax
import pytest
from jax.sharding import AbstractDevice, AbstractMesh

pytest.importorskip('jax._src.pallas.mosaic_gpu.interpret.params', reason='this jax has no Mosaic GPU interpreter')

from jax._src.pallas.mosaic_gpu.interpret import gpu_callbacks
from jax._src.pallas.mosaic_gpu.interpret.params import InterpretGPUParams

CHECKED = InterpretGPUParams(detect_races=True)


@contextlib.contextmanager
def hopper():
  """Traces kernels for an H200, which is not here, and asserts that what ran in the interpreter had no race."""
  gpu_callbacks.reset_gpu_interpret_mode_state()
  device = AbstractDevice('NVIDIA H200', 132, 'cuda')
  with jax.sharding.use_abstract_mesh(AbstractMesh((), (), abstract_device=device)):
    yield
  assert not gpu_callbacks.get_races().races_found
  gpu_callbacks.reset_gpu_interpret_mode_state()
