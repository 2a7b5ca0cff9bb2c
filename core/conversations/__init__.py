"""Conversations with media: turns, rows of data files, and mixtures of files."""
