"""The live comparison needs torch, which only the `parity` extra installs."""

import importlib.util

LIVE = (
  'test_live_transformers.py',
  'test_live_diffusion_head.py',
  'test_live_vibevoice.py',
  'test_live_vibevoice_generation.py',
)
collect_ignore = [] if importlib.util.find_spec('torch') else list(LIVE)
