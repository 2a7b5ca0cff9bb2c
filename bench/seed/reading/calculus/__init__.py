"""Derivatives, integrals, sums, products, limits and nabla: they become nodes; none is evaluated."""
