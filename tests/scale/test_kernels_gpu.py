"""The GPU kernels compiled for an H200 on a machine without one; `make gpu` installs the compiler that this needs."""

import functools
import re

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import SingleDeviceSharding

from core.plan import gpus
from kernels import diffusion_head, shapes, tree_attention
from kernels.head.arguments import Block, Guidance, Params, Steps
from kernels.tree.plan import plan

pytestmark = [
  pytest.mark.slow,
  pytest.mark.skipif(not gpus.is_installed(), reason='the CUDA plugin is not installed: make gpu'),
]
PAGE = 128


@functools.cache
def device():
  return gpus.devices(gpus.GPUS['h200'], 1)[0]


def array(*shape, dtype=jnp.bfloat16):
  return jax.ShapeDtypeStruct(shape, dtype, sharding=SingleDeviceSharding(device()))


def compiled(function, *arguments):
  return jax.jit(function).trace(*arguments).lower(lowering_platforms=('cuda',)).compile()


def calls(program) -> int:
  """How many kernels of Mosaic a program has."""
  return len(re.findall(r'custom_call_target="mosaic_gpu', program.as_text()))


SHAPES = sorted({s for s in shapes.ATTENTION.values() if s.head_size in (64, 128)}, key=repr)


@pytest.mark.parametrize('shape', SHAPES, ids=str)
def test_tree_attention_compiles(shape):
  rows, pages = 64, 512
  made = plan([[0, 1 + row] for row in range(rows)], [2 * PAGE] * rows, page_size=PAGE, capacity=pages)
  abstract = jax.tree.map(lambda x: array(*x.shape, dtype=jnp.int32), made)
  q = array(rows, shape.query_heads, shape.head_size)
  k = array(pages, shape.key_heads, shape.head_size, PAGE)
  v = array(pages, shape.key_heads, PAGE, shape.head_size)
  sinks = array(shape.query_heads) if shape.sinks else None

  def call(q, k, v, plan, sinks):
    return tree_attention(q, k, v, plan, window=shape.window, sinks=sinks, implementation='mosaic_gpu')

  program = compiled(call, q, k, v, abstract, sinks)
  assert calls(program) == 1
  pools = 2 * 2 * pages * shape.key_heads * PAGE * shape.head_size
  assert program.memory_analysis().temp_size_in_bytes < pools / 2  # no copy of a pool


@pytest.mark.parametrize('name', shapes.HEAD)
def test_diffusion_head_compiles(name):
  rows, width, latent, depth, steps = 2, shapes.HEAD[name], 64, 4, 10
  mlp = 3 * width
  block = Block(
    norm=array(width),
    modulation=array(width, 3, width),
    gate=array(width, mlp),
    up=array(width, mlp),
    down=array(mlp, width),
  )
  weights = Params(
    noise=array(latent, width),
    condition=array(width, width),
    time_in=array(256, width),
    time_out=array(width, width),
    blocks=(block,) * depth,
    modulation=array(width, 2, width),
    out=array(width, latent),
  )
  number = array(steps, dtype=jnp.float32)
  schedule = Steps(time=array(steps, width), alpha=number, sigma=number, decay=number, gain=number, slope=number)
  guidance = Guidance(scale=array(rows, dtype=jnp.float32), negative=array(rows, width))

  def call(weights, noise, condition, steps, guidance):
    return diffusion_head(weights, noise, condition, steps, guidance=guidance, implementation='mosaic_gpu')

  program = compiled(call, weights, array(rows, latent), array(rows, width), schedule, guidance)
  assert calls(program) == 2 * depth  # of the loop's body
  feed_forward = 2 * depth * 3 * width * mlp
  assert program.memory_analysis().temp_size_in_bytes < feed_forward / 2  # no copy of these weights
