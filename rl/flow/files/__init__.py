"""Diffusers folders in and out: names of tensors, configurations, whole pipelines."""
