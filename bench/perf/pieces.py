"""Products of a few rows with the weights of a gated MLP, by kind of weight: what decoding on a CPU is made of.

  python -m bench.perf.pieces --width=512 --layers=8 --rows=1,8

Each layer is three products (gate, up, down); the layers together are larger than a cache, so weights come from
memory as in decoding. One pinned thread, CPU seconds, the arms interleaved, minimum of the repeats. `whole float32` is
XLA's product of the weight as it is, the others go through `core.params.einsum` as decoding does; `cached float32`
multiplies by one layer's weights over and over, so that only packing and arithmetic are left. The floor is the time of
reading the weights once, at the bandwidth of a large sum, or of the arithmetic at the rate of a large product,
whichever is longer.
"""

import dataclasses
import sys
from collections.abc import Callable, Sequence
from typing import Any

from bench.perf.measuring import rates, report
from bench.perf.measuring.clock import fastest
from bench.perf.measuring.pinned import pin
from core.launch import command
from core.launch.fields import field

# jax is imported by the functions that need it: `pin` must come before its first import.

EQUATIONS = {'gate': 'bd,df->bf', 'up': 'bd,df->bf', 'down': 'bf,fd->bd'}


@dataclasses.dataclass(frozen=True)
class Options:
  """The program's flags."""

  width: int = field(512, 'model width; the feed-forward is three times as wide', low=1)
  layers: int = field(8, 'number of layers', low=1)
  rows: tuple[int, ...] = field((1, 8), 'rows of the activations')
  repeats: int = field(10, 'timed runs of each arm', low=1)
  json: bool = field(False, 'print JSON')

  def __post_init__(self):
    wrong = [rows for rows in self.rows if rows < 1]
    if wrong:
      raise ValueError(f'rows={wrong[0]}: expected one or more')


def weights(options: Options) -> list[dict[str, Any]]:
  """Random float32 matrices of every layer, by name."""
  import jax

  wide = 3 * options.width
  shapes = {'gate': (options.width, wide), 'up': (options.width, wide), 'down': (wide, options.width)}
  count = len(shapes) * options.layers
  keys = iter(jax.random.split(jax.random.key(0), count))

  def matrix(shape: tuple[int, int]) -> Any:
    inputs, _ = shape
    values = jax.random.normal(next(keys), shape)
    return values / inputs**0.5

  def one_layer() -> dict[str, Any]:
    return {name: matrix(shape) for name, shape in shapes.items()}

  return [one_layer() for _ in range(options.layers)]


def of_kind(layers: list[dict[str, Any]], kind: str) -> Any:
  """The layers with weights as decoding holds them: 'float32', 'bfloat16' or 'int8'."""
  import jax

  from core import params
  from kernels import pieces

  if kind == 'int8':
    return jax.tree.map(params.to_int8, layers)
  return jax.tree.map(lambda w: pieces.streamed(w.astype(kind)), layers)


def products(einsum: Callable, x: Any, layers: list[dict[str, Any]]) -> Any:
  """x [rows, width] through the gated MLP of every layer."""
  import jax

  for layer in layers:
    gate = einsum(EQUATIONS['gate'], x, layer['gate'])
    up = einsum(EQUATIONS['up'], x, layer['up'])
    x = einsum(EQUATIONS['down'], jax.nn.silu(gate) * up, layer['down'])
  return x


def arms(options: Options, layers: list[dict[str, Any]], rows: int) -> dict[str, Callable[[], Any]]:
  """Compiled calls by name, each of which has run once."""
  import jax
  import jax.numpy as jnp

  from core import params

  first_again = layers[:1] * len(layers)
  given = {'whole float32': (jnp.einsum, layers), 'cached float32': (jnp.einsum, first_again)}
  for kind in ('float32', 'bfloat16', 'int8'):
    given[kind] = (params.einsum, of_kind(layers, kind))
  x = jax.random.normal(jax.random.key(1), (rows, options.width))
  calls = {}
  for name, (einsum, weights) in given.items():
    run = jax.jit(lambda x, weights, einsum=einsum: products(einsum, x, weights))
    calls[name] = lambda run=run, weights=weights: run(x, weights).block_until_ready()
    calls[name]()
  return calls


def work(options: Options) -> None:
  """Measures each number of rows."""
  pin()
  layers = weights(options)
  count = 9 * options.width**2 * options.layers
  reading = 4 * count / rates.bandwidth(repeats=options.repeats)
  per_row = 2 * count / rates.products_per_second(repeats=options.repeats)
  report.show(report.machine(), as_json=options.json)
  for rows in options.rows:
    seconds = fastest(arms(options, layers, rows), repeats=options.repeats)
    row: dict[str, Any] = {'what': f'{rows} rows'}
    row |= {f'{name} ms': 1e3 * least for name, least in seconds.items()}
    row |= {f'{kind} times faster': seconds['float32'] / seconds[kind] for kind in ('bfloat16', 'int8')}
    report.show(row | {'float32 floor ms': 1e3 * max(reading, rows * per_row)}, as_json=options.json)


def main(argv: Sequence[str]) -> int:
  """Runs the program; returns its exit status."""
  return command.run(argv, __doc__, Options, work)


if __name__ == '__main__':
  sys.exit(main(sys.argv))
