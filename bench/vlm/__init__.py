"""Multimodal question answering: MMMU, MathVista and grounding."""

from bench.vlm.grounding import grounding
from bench.vlm.mathvista import mathvista
from bench.vlm.mmmu import mmmu, mmmu_pro

__all__ = ['grounding', 'mathvista', 'mmmu', 'mmmu_pro']
