"""Agents: isolated tools, multi-turn rollouts, and memory that learns while the language model stays as it is."""

import runpy

_origin = runpy.run_path(f'{__path__[0]}/../core/launch/origin.py')
_origin['check_imports'](__name__)
