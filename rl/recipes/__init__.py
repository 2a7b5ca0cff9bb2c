"""Recipes: phases of training put together from rollouts, advantages, losses and data."""
