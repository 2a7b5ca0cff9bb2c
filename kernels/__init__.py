"""Kernels, each with a reference, a portable XLA form, and where it pays one written for the hardware."""

from kernels.tree.dispatch import tree_attention

__all__ = ['tree_attention']
