"""Benchmarks: SEED for physics, UniGenBench, pass@k mathematics, vision-language, speech and QA."""
