"""Training examples from files: rows, mixtures, packing."""
