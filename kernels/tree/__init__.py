"""Decode attention over a paged cache in which rows share pages: each page is read once for all rows under it."""
