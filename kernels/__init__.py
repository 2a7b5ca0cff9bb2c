"""Kernels: each has a reference, a portable XLA form, and where it pays one written for the hardware."""

from kernels.tree.attention import tree_attention

__all__ = ['tree_attention']
