"""Agents that act with tools: the isolated Python they run code in, and what dispatches their calls."""
