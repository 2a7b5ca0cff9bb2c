"""Learning from trajectories: batches, losses of a batch, updates, and the phases of reward and of imitation."""
