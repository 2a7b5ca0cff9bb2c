"""Kernels on this machine's CPU: tree attention against reading each row alone, the diffusion head against torch.

  python -m bench.perf.kernels [--model=qwen3-0.6b --leaves=8 --shared=1024 --own=192]
  python -m bench.perf.kernels --model=all
  python -m bench.perf.kernels --operation=head --width=1536

One pinned thread, CPU seconds, the arms interleaved in one run, minimum of the repeats after a warm-up; the results
must agree. Bytes and FLOPs are counted by formula. The floor is the bytes, each page once, at the bandwidth of a large
sum in the same process. The sharing ratio ρ is the bytes of keys that rows read one by one over those of the unique
pages: no kernel can gain more. `no sharing` is our own form over copies of all that is shared.
"""

import dataclasses
import functools
import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from bench.perf.measuring import pinned, report
from bench.perf.measuring.clock import fastest
from bench.perf.measuring.rates import bandwidth
from bench.perf.operations import diffusion, forest
from core.launch import command
from core.launch.fields import field

# jax is imported by the functions that need it: `pin` must come before its first import.


@dataclasses.dataclass(frozen=True)
class Options(forest.Sizes):
  """The program's flags."""

  operation: Literal['tree', 'head'] = field('tree', 'what is timed')
  model: str = field('qwen3-0.6b', 'tree: a decoder of `kernels.shapes.ATTENTION` whose shape it has, or all of them')
  width: int = field(1536, 'head: width; its feed-forward is three times as wide', low=64)
  steps: int = field(10, 'head: solver steps of a frame', low=1)
  rows: int = field(1, 'head: frames at once, each with guidance', low=1)
  repeats: int = field(4, 'timed runs of each arm', low=1)
  json: bool = field(False, 'print lines of JSON')


@dataclasses.dataclass(frozen=True)
class Case:
  """Arms that compute the same, ours first; what it is, bytes that ours must read, FLOPs, and what must agree."""

  title: str
  arms: Mapping[str, Callable[[], Any]]
  bytes: int
  flops: int
  figures: Mapping[str, float]
  tolerance: float


def tree_case(options: Options, model: str) -> Case:
  """Tree attention in float32: our forms, and those that read each row alone."""
  import jax
  import jax.numpy as jnp

  from kernels import shapes, tree_attention

  made = forest.draw(shapes.ATTENTION[model], options, jnp.float32)
  alone = forest.unshared(made)

  def ours(implementation: str, given: forest.Forest) -> Callable[[], Any]:
    call = jax.jit(functools.partial(tree_attention, implementation=implementation))
    return lambda: call(given.q, given.k, given.v, given.plan)[0]

  by_row = jax.jit(forest.gathered)
  arms = {
    'xla_cpu': ours('xla_cpu', made),
    'xla': ours('xla', made),
    'reference': ours('reference', made),
    'no sharing': ours('xla_cpu', alone),
    'gather a row': lambda: by_row(made.q, made.k, made.v, made.table),
    'ragged paged attention (reference form)': forest.ragged(made),
  }
  if importlib.util.find_spec('torch'):
    arms['torch, gather a row'] = forest.torch_gathered(made)
  rows, pages = made.table.shape
  return Case(
    title=f'{model}, float32, {rows} rows of {pages * options.page_size} tokens',
    arms=arms,
    bytes=made.bytes,
    flops=made.flops,
    figures={'ρ': made.ratio},
    tolerance=1e-4,
  )


def head_case(options: Options) -> Case:
  """A frame of the diffusion head, float32, bfloat16 and int8 weights, against torch in float32."""
  import jax

  from kernels import diffusion_head
  from kernels.head import arguments

  drawn = diffusion.draw(width=options.width, steps=options.steps, rows=options.rows)
  narrow = diffusion.in_bfloat16(*drawn)

  @jax.jit
  def run(weights, noise, condition, steps, guidance):
    return diffusion_head(weights, noise, condition, steps, guidance=guidance)

  def ours(arguments_of_head: tuple, hold: Callable) -> Callable[[], Any]:
    weights, *others = arguments_of_head
    held = hold(weights)
    return lambda: run(held, *others)

  def eight_bits(weights):
    return arguments.streamed(arguments.quantised(weights))

  return Case(
    title=f'width {options.width}, {options.rows} frames of {options.steps} steps with guidance',
    arms={
      'float32': ours(drawn, arguments.streamed),
      'torch, published order, float32': diffusion.torch_frame(*drawn),
      'bfloat16': ours(narrow, arguments.streamed),
      'int8 feed-forwards': ours(narrow, eight_bits),
    },
    bytes=diffusion.hoisted_bytes(width=options.width, steps=options.steps, itemsize=4),
    flops=4 * options.rows * options.steps * (36 + 14) * options.width**2,
    figures={},
    tolerance=0.1,
  )


def check(case: Case) -> None:
  """Raises ValueError where an arm's result differs from that of the first."""
  import numpy as np

  results = {name: np.asarray(arm(), np.float32) for name, arm in case.arms.items()}
  ours, *_ = results.values()
  largest = np.abs(ours).max()
  for name, result in results.items():
    gap = np.abs(result - ours).max() / largest
    if not gap <= case.tolerance:
      raise ValueError(f'{name} differs by {gap:.1e} of the largest value')


def rows(case: Case, rate: float, repeats: int) -> list[report.Row]:
  """The case, then each arm: milliseconds, share of the floor, and how many times slower than ours."""
  import numpy as np

  def waited(arm: Callable[[], Any]) -> Callable[[], Any]:
    return lambda: np.asarray(arm())

  seconds = fastest({name: waited(arm) for name, arm in case.arms.items()}, repeats=repeats)
  floor = case.bytes / rate
  counted = {'MB': case.bytes / 1e6, 'GFLOP': case.flops / 1e9, 'floor ms': 1e3 * floor}
  first, *_ = seconds.values()
  table: list[report.Row] = [{'what': case.title, **case.figures, **counted}]
  for name, least in seconds.items():
    table.append({'what': name, 'ms': 1e3 * least, 'share of floor': floor / least, 'of the first': least / first})
  return table


def cases(options: Options) -> list[Callable[[], Case]]:
  """What is timed, one after another. Raises ValueError for an unknown model."""
  from kernels import shapes

  if options.operation == 'head':
    return [functools.partial(head_case, options)]
  named = {shape: name for name, shape in reversed(shapes.ATTENTION.items())}  # the first name of each shape
  models = list(reversed(named.values())) if options.model == 'all' else [options.model]
  unknown = set(models) - set(shapes.ATTENTION)
  if unknown:
    raise ValueError(f'model {unknown.pop()!r}: expected all, or one of {", ".join(shapes.ATTENTION)}')
  return [functools.partial(tree_case, options, model) for model in models]


def work(options: Options) -> None:
  """Times the cases and prints their figures. Raises ValueError when arms disagree."""
  pinned.pin()
  made = cases(options)
  rate = bandwidth(repeats=options.repeats)
  for make in made:
    case = make()
    check(case)
    for row in rows(case, rate, options.repeats):
      report.show(row, as_json=options.json)
  report.show(report.machine(), as_json=options.json)


def main(argv: Sequence[str]) -> int:
  """Runs the program; returns its exit status."""
  return command.run(argv, __doc__, Options, work)


if __name__ == '__main__':
  sys.exit(main(sys.argv))
