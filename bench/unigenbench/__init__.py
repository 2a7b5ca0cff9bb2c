"""UniGenBench: does an image show what its prompt says (arXiv 2508.20751)."""

from bench.unigenbench.task import unigenbench

__all__ = ['unigenbench']
