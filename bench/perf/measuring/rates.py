"""What one pinned thread of this machine does at best: bytes read and products, a second."""

from bench.perf.measuring.clock import fastest

SQUARE = 1024  # side of the matrices of the measured product
READ = 2**26  # float32 values that are summed, more than any cache holds


def bandwidth(*, repeats: int) -> float:
  """Bytes a second of reading 256 MB once, by XLA."""
  import jax
  import jax.numpy as jnp

  x = jnp.ones(READ, jnp.float32)
  total = jax.jit(jnp.sum)
  total(x).block_until_ready()
  seconds = fastest({'read': lambda: total(x).block_until_ready()}, repeats=repeats)['read']
  return x.nbytes / seconds


def products_per_second(*, repeats: int) -> float:
  """Floating-point operations a second of a large float32 product, by XLA."""
  import jax
  import jax.numpy as jnp

  x = jnp.ones((SQUARE, SQUARE), jnp.float32)
  product = jax.jit(jnp.matmul)
  product(x, x).block_until_ready()
  seconds = fastest({'product': lambda: product(x, x).block_until_ready()}, repeats=repeats)['product']
  return 2 * SQUARE**3 / seconds
