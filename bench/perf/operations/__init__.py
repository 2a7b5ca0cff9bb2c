"""The operations of `kernels` with random arguments, and peers that compute the same, for measurements."""
