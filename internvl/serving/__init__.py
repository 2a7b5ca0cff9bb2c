"""InternVL over HTTP, its vision and language towers together or decoupled (DvD, arXiv 2508.18265 §2.3)."""
