"""Parts of a program's time by kind of operation."""

import jax
import jax.numpy as jnp
import pytest

from bench.perf.measuring import trace


def parts(function):
  """The parts of a compiled function of a large matrix."""
  x = jnp.ones((256, 256))
  program = jax.jit(function)
  text = program.lower(x).compile().as_text()
  run = lambda: program(x).block_until_ready()
  run()
  return trace.shares(run, text)


def test_a_product_is_all_of_its_program():
  assert parts(lambda x: x @ x) == {'products': 1}


def test_parts_of_a_loop_add_up():
  def looped(x):
    def body(_, y):
      return jnp.sort(jnp.sin(y @ x))  # a sort is not fused with a product

    return jax.lax.fori_loop(0, 3, body, x)

  shares = parts(looped)
  assert {'products', 'elementwise'} <= set(shares)
  assert sum(shares.values()) == pytest.approx(1)
  assert list(shares.values()) == sorted(shares.values(), reverse=True)
