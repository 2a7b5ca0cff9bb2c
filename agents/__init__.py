"""Agents: isolated tools, multi-turn rollouts, and memory that learns while the language model stays as it is."""
