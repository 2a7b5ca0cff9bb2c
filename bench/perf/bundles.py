"""How many instruction bundles the TPU kernels issue, compared with the time of their transfers; needs no TPU.

  python -m bench.perf.bundles
  python -m bench.perf.bundles --operation=head --int8

A TensorCore issues one statically scheduled bundle a cycle; only waits for transfers are dynamic. libtpu writes its
final schedule to a folder when LIBTPU_INIT_ARGS asks for it, a switch that is undocumented. This counts the long
stretches without a branch, and calls `arrival` the bundles that a core issues while its transfer runs: whichever is
larger is the prediction.

tree: a page of all key heads, for 16 query rows a head and for 64 that share it, each in full and masked; and jax's
ragged paged attention on a page of equal bytes, which one row reads. `gain/ρ` is the predicted gain over it as a part
of the sharing ratio, where every page has 64 query rows. head: a grid step, and a frame.
"""

import dataclasses
import functools
import os
import pathlib
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

from bench.perf.measuring import report
from core.launch import command
from core.launch.fields import field
from core.plan import chips

CLOCK = {'v5e': 1.5e9, 'v5p': 1.75e9, 'v6e': 1.75e9, 'tpu7x': 2.2e9}  # bundles a second
TOPOLOGIES = {'v5e': 'v5e:2x2', 'v5p': 'v5p:2x2x1', 'v6e': 'v6e:2x2', 'tpu7x': 'tpu7x:2x2x1'}
LINE = re.compile(r'^\s*(0x[0-9a-f]+|0)\s+(LH|LB|LE|PB|PF|CT)?\s*:')
TREE = ('reset', '16 rows', '16 rows, masked', '64 rows', '64 rows, masked', 'division')  # its stretches, in order
SHORTEST = 150  # bundles of a stretch that is counted
QUERIES = 8  # of a block of ragged paged attention: its fewest, which decoding fills best


@dataclasses.dataclass(frozen=True)
class Options:
  """The program's flags."""

  operation: Literal['tree', 'head'] = field('tree', 'the kernel')
  chip: Literal['v5e', 'v5p', 'v6e', 'tpu7x', 'all'] = field('all', 'TPU generation')
  model: str = field('qwen3-8b', 'tree: the decoder whose shape it has, a name in `kernels.shapes.ATTENTION`')
  page_size: int = field(512, 'tree: tokens of a page', low=128)
  rows: int = field(32, 'tree: sequences', low=1)
  width: int = field(1536, 'head: width', low=128)
  int8: bool = field(False, 'head: feed-forwards in 8 bits')
  steps: int = field(10, 'head: solver steps of a frame', low=1)
  json: bool = field(False, 'print lines of JSON')


class Stretch(NamedTuple):
  """Bundles without a branch, and how many of them spill or reload a register."""

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
      yield Stretch(address - start, spills)
      start = address
      spills = 0
    spills += '_spill' in line
    last = address
    if 'sbr.rel' in line:
      yield Stretch(address + 1 - start, spills)
      start = address + 1
      spills = 0
  yield Stretch(last + 1 - start, spills)


class Program(NamedTuple):
  """A function of abstract arguments that calls the kernel of this name once."""

  kernel: str
  function: Callable
  arguments: tuple


def tree(options: Options) -> Program:
  """Tree attention over 64 pages."""
  import jax
  import jax.numpy as jnp

  from kernels import shapes, tree_attention
  from kernels.tree.plan import plan

  shape = shapes.ATTENTION[options.model]
  size = options.page_size
  tables = [[0, 1 + row] for row in range(options.rows)]  # the first page is shared
  lengths = [2 * size] * options.rows
  made = plan(tables, lengths, page_size=size, capacity=64)
  heads = (shape.key_heads, shape.head_size)
  q = jax.ShapeDtypeStruct((options.rows, shape.query_heads, shape.head_size), jnp.bfloat16)
  k = jax.ShapeDtypeStruct((64, *heads, size), jnp.bfloat16)
  v = jax.ShapeDtypeStruct((64, heads[0], size, heads[1]), jnp.bfloat16)
  abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.int32), made)
  function = functools.partial(tree_attention, implementation='pallas_tpu')
  return Program('tree_attention', function, (q, k, v, abstract))


def ragged(options: Options) -> Program:
  """jax's ragged paged attention over the same pages, one page a block."""
  import jax
  import jax.numpy as jnp
  from jax.experimental.pallas.ops.tpu.ragged_paged_attention import ragged_paged_attention

  from kernels import shapes

  shape = shapes.ATTENTION[options.model]
  rows = options.rows

  def int32(*dims):
    return jax.ShapeDtypeStruct(dims, jnp.int32)

  q = jax.ShapeDtypeStruct((rows, shape.query_heads, shape.head_size), jnp.bfloat16)
  pool = jax.ShapeDtypeStruct((64, options.page_size, 2 * shape.key_heads, shape.head_size), jnp.bfloat16)
  lengths, tables, ends, count = int32(rows), int32(rows, 2), int32(rows + 1), int32(1)
  function = functools.partial(
    ragged_paged_attention,
    num_kv_pages_per_block=1,
    num_queries_per_block=QUERIES,
    vmem_limit_bytes=48 * 2**20,
  )
  return Program('ragged_paged_attention_kernel', function, (q, pool, lengths, tables, ends, count))


def head(options: Options) -> Program:
  """A frame of the diffusion head with guidance."""
  import jax
  import jax.numpy as jnp

  from core import params as params_lib
  from kernels import diffusion_head
  from kernels.head import arguments
  from vibevoice import diffusion
  from vibevoice.config import HeadConfig

  config = HeadConfig(width=options.width)
  weights = params_lib.abstract(diffusion.spec(config), jnp.bfloat16)
  steps = jax.eval_shape(lambda w: diffusion.solver_steps(w, options.steps), weights)
  if options.int8:
    weights = jax.eval_shape(arguments.quantised, weights)
  noise, hidden = (jax.ShapeDtypeStruct((1, size), jnp.bfloat16) for size in (config.latent, config.width))
  guidance = diffusion.Guidance(scale=jax.ShapeDtypeStruct((1,), jnp.float32), negative=hidden)

  def call(weights, noise, hidden, steps, guidance):
    return diffusion_head(weights, noise, hidden, steps, guidance=guidance, implementation='pallas_tpu')

  return Program('diffusion_head', call, (weights, noise, hidden, steps, guidance))


def schedule(program: Program, mesh: Any, folder: pathlib.Path) -> list[Stretch]:
  """The long stretches of a kernel's final schedule, which libtpu writes to `folder`.

  Raises FileNotFoundError if it wrote none.
  """
  import jax

  here = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
  placed = jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=here), program.arguments)
  with jax.set_mesh(mesh):
    jax.jit(program.function).lower(*placed).compile()
  files = [p for p in folder.rglob(f'*{program.kernel}*-final_bundles.txt') if 'analysis' not in p.name]
  if not files:
    raise FileNotFoundError(f'libtpu wrote no schedule of {program.kernel} to {folder}')
  text = files[0].read_text(encoding='utf-8')
  for part in folder.iterdir():  # tens of megabytes
    shutil.rmtree(part) if part.is_dir() else part.unlink()
  return [part for part in stretches(text) if part.bundles >= SHORTEST]


def tree_row(chip: str, options: Options, mesh: Any, folder: pathlib.Path) -> report.Row:
  """Bundles of tree attention's paths and of ragged paged attention. Raises ValueError for unknown stretches."""
  from kernels import shapes

  shape = shapes.ATTENTION[options.model]
  found = schedule(tree(options), mesh, folder)
  if len(found) != len(TREE):
    raise ValueError(f'expected the stretches {TREE} of tree attention on {chip}, found {found}')
  bundles = {name: part.bundles for name, part in zip(TREE, found)}
  theirs = max(part.bundles for part in schedule(ragged(options), mesh, folder))
  page = 2 * 2 * options.page_size * shape.key_heads * shape.head_size
  arrival = _bundles(chip, page)
  gain = max(theirs, arrival) / max(bundles['64 rows'], arrival)
  return {'what': chip, **bundles, 'arrival': round(arrival), 'ragged paged attention': theirs, 'gain/ρ': gain}


def head_row(chip: str, options: Options, mesh: Any, folder: pathlib.Path) -> report.Row:
  """Bundles of a grid step of the head, and the frame that they and its transfers predict."""
  import jax

  from kernels.head import pallas_tpu, tpu_matrices

  program = head(options)
  weights = program.arguments[0]
  with jax.set_mesh(mesh):
    tiles = pallas_tpu.choose_tiles(weights)
  depth, width, _ = tpu_matrices.shape(weights.blocks)
  size = tpu_matrices.itemsize(weights.blocks)
  step = max(part.bundles for part in schedule(program, mesh, folder))
  arrival = _bundles(chip, 3 * width * tiles.streamed * size)
  resident = 3 * depth * width * tiles.count * tiles.resident * size
  hoisted = 2 * 15 * width**2
  issued = options.steps * depth * tiles.count * max(step, arrival)
  seconds = issued / CLOCK[chip] + (resident + hoisted) / chips.CHIPS[chip].bandwidth
  moved = tiles.traffic(depth, width, size, options.steps) + hoisted
  return {
    'what': chip,
    'resident columns of all': f'{tiles.count * tiles.resident} of {tiles.count * (tiles.streamed + tiles.resident)}',
    'step': step,
    'arrival': round(arrival),
    'MB a frame': moved / 1e6,
    'frame ms': 1e3 * seconds,
    'floor ms': 1e3 * moved / chips.CHIPS[chip].bandwidth,
  }


def _bundles(chip: str, size: float) -> float:
  """Bundles that a core issues while `size` bytes arrive."""
  return size / chips.CHIPS[chip].bandwidth * CLOCK[chip]


def work(options: Options) -> None:
  """Compiles the kernels for each chip and prints a row of it."""
  asked = TOPOLOGIES if options.chip == 'all' else {options.chip: TOPOLOGIES[options.chip]}
  row = {'tree': tree_row, 'head': head_row}[options.operation]
  with tempfile.TemporaryDirectory() as name:
    os.environ['LIBTPU_INIT_ARGS'] = f'--xla_jf_dump_to={name}'  # read when libtpu is loaded, by `chips.devices`
    for chip, topology in asked.items():
      first, *_ = chips.devices(topology)
      import jax
      import numpy as np

      mesh = jax.sharding.Mesh(np.array([first]), ('x',))
      report.show(row(chip, options, mesh, pathlib.Path(name)), as_json=options.json)


def main(argv: Sequence[str]) -> int:
  """Runs the program; returns its exit status."""
  return command.run(argv, __doc__, Options, work)


if __name__ == '__main__':
  sys.exit(main(sys.argv))
