"""Decoding of windows: rules, greedy and beam search, fallback."""
