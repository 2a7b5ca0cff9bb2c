"""The parts of `python -m bench.perf.serve`."""
