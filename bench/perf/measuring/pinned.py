"""One pinned thread for timing: what must be set before jax is imported for the first time."""

import os
import sys


def pin() -> None:
  """Keeps this process, and XLA in it, on one core. Raises RuntimeError when jax is already imported."""
  if 'jax' in sys.modules:
    raise RuntimeError('pin: jax is already imported, so its settings can no longer change')
  os.environ['XLA_FLAGS'] = os.environ.get('XLA_FLAGS', '') + ' --xla_cpu_multi_thread_eigen=false'
  os.environ['OMP_NUM_THREADS'] = os.environ['MKL_NUM_THREADS'] = '1'
  os.environ.setdefault('JAX_PLATFORMS', 'cpu')
  os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
