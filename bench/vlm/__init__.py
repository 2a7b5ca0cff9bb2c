"""Multimodal question answering: MMMU, MathVista and grounding."""
