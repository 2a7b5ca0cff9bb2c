"""LaTeX text to tokens."""
