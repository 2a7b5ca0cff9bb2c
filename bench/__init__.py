"""Benchmarks: SEED for physics, UniGenBench, pass@k mathematics, vision-language, speech and QA."""

import runpy

_origin = runpy.run_path(f'{__path__[0]}/../core/launch/origin.py')
_origin['check_imports'](__name__)
