"""Model files that are not safetensors, as tensors in memory under the names of a published folder; none runs code."""
