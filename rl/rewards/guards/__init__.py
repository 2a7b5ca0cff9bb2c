"""Calls of reward functions that may raise, never return or crash: each costs itself alone, never the run."""
