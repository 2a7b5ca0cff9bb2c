"""The live comparison needs torch, which only the `parity` extra installs."""

import importlib.util

collect_ignore = [] if importlib.util.find_spec('torch') else ['test_live_transformers.py']
