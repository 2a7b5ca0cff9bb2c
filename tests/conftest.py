"""What every test runs under: the CPU backend, quick compilation kept between runs, no network."""

import os
import pathlib

os.environ.setdefault('JAX_PLATFORMS', 'cpu')
# Halves compile time; tests/core/test_optimised.py repeats the numerics at full optimisation.
os.environ.setdefault('XLA_FLAGS', '--xla_backend_optimization_level=0')
os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', str(pathlib.Path(__file__).parent.parent / '.jax_cache'))
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0')
os.environ.update(HF_HUB_OFFLINE='1', TRANSFORMERS_OFFLINE='1')
