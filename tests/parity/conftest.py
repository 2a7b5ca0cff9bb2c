"""The live comparisons need torch, which only the `parity` extra installs."""

import importlib.util

collect_ignore_glob = [] if importlib.util.find_spec('torch') else ['test_live_*.py']
