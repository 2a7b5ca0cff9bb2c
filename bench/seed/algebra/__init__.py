"""When two expression trees are equal."""
