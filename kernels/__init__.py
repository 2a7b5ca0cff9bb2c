"""Kernels: each has a reference, a portable XLA form, and where it pays one written for the hardware."""

from kernels.head.diffusion import diffusion_head
from kernels.tree.attention import tree_attention

__all__ = ['diffusion_head', 'tree_attention']
