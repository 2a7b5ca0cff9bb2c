"""Sizes of the blocks that attention works in."""

QUERY_BLOCK = 512  # queries whose scores are in memory at a time
TILE = 128  # queries of one head whose scores are in a CPU core's cache at a time
LANES = 128  # of a TPU vector register
