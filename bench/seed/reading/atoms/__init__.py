"""Atoms of an expression: numbers, symbols, what brackets hold, units."""
