"""What every test runs under: the CPU backend, quick compilation kept between runs, no network."""

import ctypes
import gc
import os
import pathlib
import signal
import sys

import hypothesis
import psutil
import pytest

from tests.compilation import quick

os.environ.setdefault('JAX_PLATFORMS', 'cpu')
# tests/core/test_optimised.py repeats the numerics at full optimisation.
os.environ.setdefault('XLA_FLAGS', quick())
os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', str(pathlib.Path(__file__).parent.parent / '.jax_cache'))
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0')
os.environ.update(HF_HUB_OFFLINE='1', TRANSFORMERS_OFFLINE='1')

# A job in the background ignores SIGINT, and so would the programs that tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
  signal.signal(signal.SIGINT, signal.default_int_handler)

# No property depends on how fast the machine is.
hypothesis.settings.register_profile(
  'any machine', deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile('any machine')

# Compiled programs pile up: a worker that keeps them all passes 3 GB in the middle of the suite.
DROP_ABOVE = 1.5 * 2**30  # bytes resident


@pytest.fixture(autouse=True, scope='module')
def drop_compiled_programs():
  """After a module that leaves the process large, drops all compiled programs and returns the memory."""
  yield
  if 'jax' in sys.modules and psutil.Process().memory_info().rss > DROP_ABOVE:
    sys.modules['jax'].clear_caches()
    gc.collect()
    ctypes.CDLL('libc.so.6').malloc_trim(0)
