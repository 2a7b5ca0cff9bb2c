"""The numerics of the stored results at full compiler optimisation, which the other tests forgo for speed."""

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.slow
def test_parity_holds_at_full_optimisation():
  cases = 'test_equals_transformers and (6b-qwen3_moe or lm-gpt_oss)'
  out = subprocess.run(
    [sys.executable, '-m', 'pytest', '-k', cases, 'tests/parity/test_fixtures.py'],
    cwd=ROOT,
    env=os.environ | {'XLA_FLAGS': '--xla_backend_optimization_level=3'},
    capture_output=True,
    text=True,
    check=False,
  )
  assert out.returncode == 0 and '2 passed' in out.stdout, out.stdout[-3000:]
