"""Benchmarks: SEED physics scoring, UniGenBench, pass@k mathematics, vision-language, speech and QA metrics."""
