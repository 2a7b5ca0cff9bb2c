"""Memory of the published decoders by dtype, and which of them one device holds: two tables for docs/memory.md.

  python -m core.plan.sizes

From the shapes alone, by the same specs and optimiser that `core.plan` compiles. Activations are not counted, nor what
a program needs in addition to its arguments: `python -m core.plan` compiles a step for a TPU, a GPU or the CPU, and
counts them too.
"""

import dataclasses
import math
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from core import decoder, params
from core.launch import command
from core.plan.chips import CHIPS
from core.plan.gpus import GPUS
from core.training.optim import Optim, optimizer

# What int8 keeps in 8 bits. Experts are not among it: they are widened before they are multiplied.
ATTENTION = r'blocks\.attn\.[qkvo]'
PROJECTIONS = r'blocks\.(attn\.[qkvo]|mlp\.(gate|up|down))'
CONTEXT = 8192  # tokens of the cache that decoding on one device should hold


@dataclasses.dataclass(frozen=True)
class Options:
  """The program has no flags."""


@dataclasses.dataclass(frozen=True)
class Size:
  """Bytes of one decoder. float32, bfloat16, int8: its weights. token: keys and values of a token in bfloat16.

  training: float32 weights, the two moments of AdamW and the gradient.
  """

  name: str
  parameters: int
  float32: int
  bfloat16: int
  int8: int
  token: int
  training: int

  def decoding(self, weights: int) -> int:
    """Bytes of decoding with a full context, given the bytes of the weights."""
    return weights + CONTEXT * self.token


def held(tree: Any) -> int:
  """Bytes of a tree of shapes."""
  return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def size(name: str, config: decoder.Config) -> Size:
  """The bytes of a decoder."""
  spec = decoder.spec(config)
  whole = params.abstract(spec, jnp.float32)
  half = params.abstract(spec, jnp.bfloat16)
  pattern = ATTENTION if config.moe else PROJECTIONS
  eighth = jax.eval_shape(lambda p: params.map_weights(lambda _, w: params.to_int8(w), p, pattern), half)
  tx = optimizer(Optim('adamw'), 1000, spec)
  moments = jax.eval_shape(tx.init, whole)
  of_keys = 2 * config.depth * config.kv_heads * config.head_dim
  return Size(
    name=name,
    parameters=params.count(spec),
    float32=held(whole),
    bfloat16=held(half),
    int8=held(eighth),
    token=of_keys * jnp.dtype(jnp.bfloat16).itemsize,
    training=2 * held(whole) + held(moments),
  )


def sizes() -> list[Size]:
  """Every published decoder, the smallest first."""
  named = [size(name, config) for name, config in decoder.CONFIGS.items() if name != 'tiny']
  return sorted(named, key=lambda s: s.parameters)


def by_size(every: Sequence[Size]) -> Iterator[str]:
  """Lines of the table of sizes."""
  yield '| decoder | parameters | float32 | bfloat16 | int8 | 8,192 tokens of keys and values | training, float32 |'
  yield '|---|---|---|---|---|---|---|'
  for s in every:
    cells = [s.float32, s.bfloat16, s.int8, CONTEXT * s.token, s.training]
    yield f'| {s.name} | {s.parameters / 1e9:.2f} B | ' + ' | '.join(map(gigabytes, cells)) + ' |'


def by_device(every: Sequence[Size]) -> Iterator[str]:
  """Lines of the table of devices: the largest decoder that each holds."""
  yield '| one device | memory | decodes in float32 | in bfloat16 | in int8 | trains in float32 |'
  yield '|---|---|---|---|---|---|'
  devices = {name: chip.hbm for name, chip in CHIPS.items()} | {gpu.name: gpu.hbm for gpu in GPUS.values()}
  for name, memory in sorted(devices.items(), key=lambda item: item[1]):
    cells = [
      largest(every, memory, lambda s: s.decoding(s.float32)),
      largest(every, memory, lambda s: s.decoding(s.bfloat16)),
      largest(every, memory, lambda s: s.decoding(s.int8)),
      largest(every, memory, lambda s: s.training),
    ]
    yield f'| {name} | {gigabytes(memory)} | ' + ' | '.join(cells) + ' |'


def largest(every: Sequence[Size], memory: float, needs: Any) -> str:
  """The name of the last decoder whose needs the memory meets."""
  return [s.name for s in every if needs(s) <= memory][-1]


def gigabytes(amount: float) -> str:
  """Bytes in units of 10^9."""
  return f'{amount / 1e9:.2f} GB'


def work(options: Options) -> None:
  """Prints both tables."""
  every = sizes()
  print('\n'.join([*by_size(every), '', *by_device(every)]))


def main(argv: Sequence[str]) -> int:
  """Runs the program; returns its exit status."""
  return command.run(argv, __doc__, Options, work)


if __name__ == '__main__':
  sys.exit(main(sys.argv))
