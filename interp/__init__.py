"""Speech recognition and the interpretability of models (arXiv 2508.15882)."""
