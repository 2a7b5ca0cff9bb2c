"""Training examples from rows of conversations, and packing."""
