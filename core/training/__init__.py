"""Training of any model: optimiser and jitted step, data, the loop with checkpoints and resumption, records."""
