"""The TPU kernels compiled for each generation at the shapes of the shipped models."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from core.plan import chips
from kernels import diffusion_head, shapes, tree_attention
from kernels.head.arguments import Block, Guidance, Params, Steps
from kernels.int8 import GROUP, Int8
from kernels.tree.attention import TABLE
from kernels.tree.plan import plan
from tests.kernels.compiled import TOPOLOGIES, compile_for

pytest.importorskip('libtpu', reason="compiling for a TPU needs the extra 'plan'")
pytestmark = pytest.mark.slow

PAGE, PAGES, ROWS = 256, 288, 256  # queries and state of these rows nearly fill 64 MiB of VMEM
CALL = 'custom_call_target="tpu_custom_call"'


def array(*shape, dtype=jnp.bfloat16):
  return jax.ShapeDtypeStruct(shape, dtype)


def array8(*shape):
  return Int8(array(*shape, dtype=jnp.int8), array(*shape[:-1], shape[-1] // GROUP))


def on_pages(shape: shapes.Shape, rows: int = ROWS):
  """(function, abstract arguments) of tree attention in its default implementation."""
  made = plan([[0, 1 + row] for row in range(rows)], [2 * PAGE] * rows, page_size=PAGE, capacity=PAGES)
  abstract = jax.tree.map(lambda x: array(*x.shape, dtype=jnp.int32), made)
  q = array(rows, shape.query_heads, shape.head_size)
  k = array(PAGES, shape.key_heads, shape.head_size, PAGE)
  v = array(PAGES, shape.key_heads, PAGE, shape.head_size)
  sinks = array(shape.query_heads) if shape.sinks else None

  def call(q, k, v, plan, sinks):
    return tree_attention(q, k, v, plan, window=shape.window, sinks=sinks)

  return call, (q, k, v, abstract, sinks)


KERNEL_SHAPES = sorted({s for s in shapes.ATTENTION.values() if s.head_size == 128}, key=repr)


@pytest.mark.parametrize('topology', TOPOLOGIES)
def test_tree_attention_of_few_rows_and_heads_compiles(topology):
  """The kernel lowers for every generation; `make long` has the shapes of the shipped models."""
  call, arguments = on_pages(shapes.Shape(query_heads=8, key_heads=2, head_size=128), rows=16)
  assert compile_for(topology, call, *arguments).as_text().count(CALL) == 1


@pytest.mark.long  # 5 to 27 s a shape
@pytest.mark.parametrize('shape', KERNEL_SHAPES, ids=str)
@pytest.mark.parametrize('topology', TOPOLOGIES)
def test_tree_attention_compiles(topology, shape):
  """Without a name the TPU takes its kernel, at every catalogue shape whose heads fill lanes."""
  call, arguments = on_pages(shape)
  compiled = compile_for(topology, call, *arguments)
  assert compiled.as_text().count(CALL) == 1
  pools = 2 * np.prod(arguments[1].shape) * 2
  assert compiled.memory_analysis().temp_size_in_bytes < pools / 2  # no copy of a pool


@pytest.mark.long
def test_tree_attention_is_split_by_heads_without_collectives():
  """Inside `shard_map` each device takes the kernel for its key heads; outside, XLA's form is partitioned."""
  devices = np.array(chips.devices('v6e:2x2'))
  mesh = jax.sharding.Mesh(devices, ('model',))
  call, (q, k, v, made, _) = on_pages(shapes.ATTENTION['qwen3-8b'])
  heads, whole = PartitionSpec(None, 'model'), PartitionSpec()
  places = (heads, heads, heads, jax.tree.map(lambda _: whole, made))

  def placed(x, spec):
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, spec))

  arguments = jax.tree.map(placed, (q, k, v, made), places)

  def alone(q, k, v, plan):
    return call(q, k, v, plan, None)[0]

  with jax.set_mesh(mesh):
    by_heads = jax.shard_map(alone, in_specs=places, out_specs=heads, check_vma=False)
    text = jax.jit(by_heads).lower(*arguments).compile().as_text()
    assert 'over the 4 devices' in TABLE.choices(q, k, v, made, None, default='xla', window=None)['tpu']
  assert text.count(CALL) == 1
  assert not any(name in text for name in ('all-gather', 'all-reduce', 'all-to-all', 'collective-permute'))


def head_shapes(width: int, depth: int = 4, latent: int = 64, steps: int = 10, rows: int = 1, int8: bool = False):
  """Abstract arguments of the diffusion head: weights, noise, condition, steps, guidance."""
  mlp = 3 * width
  matrix = array8 if int8 else array
  block = Block(
    norm=array(depth, width),
    modulation=array(depth, width, 3, width),
    gate=matrix(depth, width, mlp),
    up=matrix(depth, width, mlp),
    down=matrix(depth, mlp, width),
  )
  weights = Params(
    noise=array(latent, width),
    condition=array(width, width),
    time_in=array(256, width),
    time_out=array(width, width),
    blocks=block,
    modulation=array(width, 2, width),
    out=array(width, latent),
  )
  coefficients = {name: array(steps, dtype=jnp.float32) for name in ('alpha', 'sigma', 'decay', 'gain', 'slope')}
  solver = Steps(time=array(steps, width), **coefficients)
  guidance = Guidance(scale=array(rows, dtype=jnp.float32), negative=array(rows, width))
  return weights, array(rows, latent), array(rows, width), solver, guidance


@pytest.mark.parametrize('int8', [False, True])
@pytest.mark.parametrize('topology', TOPOLOGIES)
def test_a_narrow_diffusion_head_compiles(topology, int8):
  """The kernel lowers for every generation; `make long` has the published widths."""

  def call(w, x, h, at, g):
    return diffusion_head(w, x, h, at, guidance=g)

  text = compile_for(topology, call, *head_shapes(256, depth=2, steps=2, int8=int8)).as_text()
  assert text.count(CALL) == 1


@pytest.mark.long
@pytest.mark.parametrize('int8', [False, True])
@pytest.mark.parametrize('topology', TOPOLOGIES)
def test_diffusion_head_compiles(topology, int8):
  """At the widths of Realtime, 1.5B and 7B; temporaries hold modulation, never a copy of a layer.

  Without a name the TPU takes the kernel where part of the weights stays in VMEM, which at 7B is not so.
  """

  def call(implementation):
    return lambda w, x, h, at, g: diffusion_head(w, x, h, at, guidance=g, implementation=implementation)

  for name, width in shapes.HEAD.items():
    arguments = head_shapes(width, int8=int8)
    compiled = compile_for(topology, call('pallas_tpu' if name == '7b' else None), *arguments)
    assert compiled.as_text().count(CALL) == 1, name
    layer = (1 if int8 else 2) * 9 * width**2
    assert compiled.memory_analysis().temp_size_in_bytes < layer, name
