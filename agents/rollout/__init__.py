"""Rollouts with tools: the protocol of turns, trajectories, resampling, rows for training."""
