"""IFEval: instructions that a program can check (arXiv 2311.07911)."""

from bench.ifeval.task import ifeval

__all__ = ['ifeval']
