"""How many instruction bundles a TPU kernel issues a grid step, without a TPU: an optional look at its schedule.

  python -m bench.perf.bundles --operation=tree --topology=v6e:2x2

A TensorCore issues one statically scheduled bundle a cycle; only waits for transfers are dynamic. libtpu writes its
final schedule to a folder when LIBTPU_INIT_ARGS asks for it, a switch that is undocumented. This prints the long
stretches without a branch: for tree attention, in order, the reset, the path of 16 rows (full page, then masked), the
path of 64 rows (full page, then masked) and the final division. Bundles divided by the clock rate are the time to
compare with that of the transfer.
"""

import dataclasses
import os
import pathlib
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from core.launch import command
from core.launch.fields import field
from core.plan import chips

CLOCK = {'v5e': 1.5e9, 'v5p': 1.75e9, 'v6e': 1.75e9, 'tpu7x': 2.2e9}  # bundles a second
LINE = re.compile(r'^\s*(0x[0-9a-f]+|0)\s+(LH|LB|LE|PB|PF|CT)?\s*:')


@dataclasses.dataclass(frozen=True)
class Options:
  """The program's flags."""

  operation: Literal['tree', 'head'] = field('tree', 'the kernel')
  topology: str = field('v6e:2x2', 'TPU generation and shape')
  model: str = field('qwen3-8b', 'tree: the decoder whose shape it has, a name in `kernels.shapes.ATTENTION`')
  page_size: int = field(512, 'tree: tokens of a page', low=128)
  rows: int = field(32, 'tree: sequences', low=1)
  width: int = field(1536, 'head: width', low=128)
  shortest: int = field(150, 'stretches of fewer bundles are left out', low=1)


@dataclasses.dataclass(frozen=True)
class Stretch:
  """Bundles from `start` on without a branch, and how many of them spill or reload a register."""

  start: int
  bundles: int
  spills: int


def stretches(schedule: str) -> Iterator[Stretch]:
  """The stretches of a final schedule: a label begins one, a branch ends it."""
  start = last = spills = 0
  for line in schedule.splitlines():
    match = LINE.match(line)
    if match is None:
      continue
    address = int(match[1], 0)
    label = match[2]
    if label:
      yield Stretch(start, address - start, spills)
      start = address
      spills = 0
    spills += '_spill' in line
    last = address
    if 'sbr.rel' in line:
      yield Stretch(start, address + 1 - start, spills)
      start = address + 1
      spills = 0
  yield Stretch(start, last + 1 - start, spills)


def tree(options: Options) -> tuple[Any, tuple]:
  """(function, abstract arguments) of tree attention over 64 pages."""
  import jax
  import jax.numpy as jnp

  from kernels import shapes, tree_attention
  from kernels.tree.plan import plan

  shape = shapes.ATTENTION[options.model]
  size = options.page_size
  made = plan([[0, 1 + row] for row in range(options.rows)], [2 * size] * options.rows, page_size=size, capacity=64)
  heads = (shape.key_heads, shape.head_size)
  q = jax.ShapeDtypeStruct((options.rows, shape.query_heads, shape.head_size), jnp.bfloat16)
  k = jax.ShapeDtypeStruct((64, *heads, size), jnp.bfloat16)
  v = jax.ShapeDtypeStruct((64, heads[0], size, heads[1]), jnp.bfloat16)
  abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.int32), made)
  return lambda *arrays: tree_attention(*arrays, implementation='pallas_tpu'), (q, k, v, abstract)


def head(options: Options) -> tuple[Any, tuple]:
  """(function, abstract arguments) of a frame of the diffusion head with guidance."""
  import jax
  import jax.numpy as jnp

  from core import params as params_lib
  from kernels import diffusion_head
  from vibevoice import diffusion
  from vibevoice.config import HeadConfig

  config = HeadConfig(width=options.width)
  weights = params_lib.abstract(diffusion.spec(config), jnp.bfloat16)
  steps = jax.eval_shape(lambda w: diffusion.solver_steps(w, 10), weights)
  noise, hidden = (jax.ShapeDtypeStruct((1, size), jnp.bfloat16) for size in (config.latent, config.width))
  guidance = diffusion.Guidance(scale=jax.ShapeDtypeStruct((1,), jnp.float32), negative=hidden)

  def call(weights, noise, hidden, steps, guidance):
    return diffusion_head(weights, noise, hidden, steps, guidance=guidance, implementation='pallas_tpu')

  return call, (weights, noise, hidden, steps, guidance)


def schedule(options: Options) -> str:
  """The final schedule of the kernel. Raises FileNotFoundError if libtpu wrote none."""
  with tempfile.TemporaryDirectory() as folder:
    os.environ['LIBTPU_INIT_ARGS'] = f'--xla_jf_dump_to={folder}'  # read when libtpu is loaded, below
    devices = chips.devices(options.topology)
    import jax
    import numpy as np

    mesh = jax.sharding.Mesh(np.array(devices[:1]), ('x',))
    here = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    function, arguments = {'tree': tree, 'head': head}[options.operation](options)
    placed = jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=here), arguments)
    with jax.set_mesh(mesh):
      jax.jit(function).lower(*placed).compile()
    name = {'tree': 'tree_attention', 'head': 'diffusion_head'}[options.operation]
    files = [p for p in pathlib.Path(folder).rglob(f'*{name}*-final_bundles.txt') if 'analysis' not in p.name]
    if not files:
      raise FileNotFoundError(f'libtpu wrote no schedule of {name} to {folder}')
    return files[0].read_text(encoding='utf-8')


def work(options: Options) -> None:
  """Compiles the kernel and prints its long stretches."""
  clock = CLOCK[options.topology.split(':')[0]]
  for part in stretches(schedule(options)):
    if part.bundles >= options.shortest:
      microseconds = 1e6 * part.bundles / clock
      print(f'{part.start:#7x}: {part.bundles} bundles, {microseconds:.2f} µs, {part.spills} with spills')


def main(argv: Sequence[str]) -> int:
  """Runs the program; returns its exit status."""
  return command.run(argv, __doc__, Options, work)


if __name__ == '__main__':
  sys.exit(main(sys.argv))
