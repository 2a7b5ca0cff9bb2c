"""Memento: a planner and an executor that use tools and remember."""
