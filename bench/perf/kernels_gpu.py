"""Kernels on a GPU: correctness against the `reference` forms first, then bandwidth relative to a copy.

  python -m bench.perf.kernels_gpu [--trees=16 --leaves=16 --shared=2048 --own=512]

bfloat16. A time is the minimum over the repeats of a chain of dependent calls in one program, divided by their number,
so it excludes launches from the host. Bytes are counted by formula: each page once, and the head's weights as the
hoisted form reads them. Most of the run is compilation. On a CPU, use `--implementations=xla` and small sizes.
"""

import dataclasses
import functools
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from bench.perf.operations import diffusion, forest
from core.launch import command
from core.launch.fields import field
from kernels import shapes

COPIED = 2**28  # float32 numbers: 1 GiB, far more than a cache


@dataclasses.dataclass(frozen=True)
class Options:
  """The program's flags."""

  model: str = field('qwen3-8b', 'decoder whose attention is timed, a name in `kernels.shapes.ATTENTION`')
  trees: int = field(16, 'prompts', low=1)
  leaves: int = field(16, 'rows that share each prompt', low=1)
  shared: int = field(2048, 'tokens of a prompt', low=0)
  own: int = field(512, 'tokens of each row alone', low=1)
  page_size: int = field(128, 'tokens of a page', low=1)
  heads: tuple[str, ...] = field(
    ('1.5b', '7b'), 'a VibeVoice whose head is timed, a name in `kernels.shapes.HEAD`', repeated=True
  )
  steps: int = field(10, 'solver steps of a frame', low=1)
  implementations: tuple[str, ...] = field(('xla', 'mosaic_gpu'), 'a form of the kernels', repeated=True)
  calls: int = field(50, 'dependent calls in one program', low=1)
  repeats: int = field(4, 'timed runs', low=1)
  copied: int = field(COPIED, 'numbers that are copied to measure bandwidth', low=1)

  def __post_init__(self):
    for given, known in ((self.model, shapes.ATTENTION), *((name, shapes.HEAD) for name in self.heads)):
      if given not in known:
        raise ValueError(f'{given}: expected one of {", ".join(known)}')


def seconds(step: Callable[[Any, Any], Any], start: Any, given: Any, options: Options) -> float:
  """Of one call in a chain: step(x, given) is the x of the next call."""
  import jax

  chain = jax.jit(lambda x, given: jax.lax.fori_loop(0, options.calls, lambda _, x: step(x, given), x))
  jax.block_until_ready(chain(start, given))
  best = float('inf')
  for _ in range(options.repeats):
    begin = time.perf_counter()
    jax.block_until_ready(chain(start, given))
    best = min(best, time.perf_counter() - begin)
  return best / options.calls


def bandwidth(options: Options) -> float:
  """Bytes a second that a copy of a large array reads and writes."""
  import jax.numpy as jnp

  x = jnp.zeros(options.copied, jnp.float32)
  return 2 * x.nbytes / seconds(lambda x, _: x + 1, x, None, options)


@dataclasses.dataclass(frozen=True)
class Case:
  """An operation: call(implementation, x, given), the x it starts from and what is given; the bytes it must read."""

  title: str
  call: Callable[[str, Any, Any], Any]
  start: Any
  given: Any
  bytes: int
  tolerance: float


def tree(options: Options) -> Case:
  """Attention of the leaves of some trees, each row to the end of its pages."""
  import jax.numpy as jnp

  from kernels import tree_attention

  named = {name: getattr(options, name) for name in ('trees', 'leaves', 'shared', 'own', 'page_size')}
  made = forest.draw(shapes.ATTENTION[options.model], forest.Sizes(**named), jnp.bfloat16)
  rows, pages = made.table.shape
  length = pages * options.page_size
  return Case(
    title=f'tree_attention, {options.model}, {rows} rows of {length} tokens, sharing ratio {made.ratio:.2f}',
    call=lambda name, q, given: tree_attention(q, *given, implementation=name)[0],
    start=made.q,
    given=(made.k, made.v, made.plan),
    bytes=made.bytes,
    tolerance=2e-2,
  )


def head(options: Options, width: int) -> Case:
  """A frame of the diffusion head with guidance."""
  from kernels import diffusion_head

  made = diffusion.draw(width=width, steps=options.steps, rows=1)
  weights, noise, condition, steps, guidance = diffusion.in_bfloat16(*made)

  def frame(name, x, given):
    weights, condition, steps, guidance = given
    return diffusion_head(weights, x, condition, steps, guidance=guidance, implementation=name)

  return Case(
    title=f'diffusion_head, width {width}, {options.steps} steps, one frame with guidance',
    call=frame,
    start=noise,
    given=(weights, condition, steps, guidance),
    bytes=diffusion.hoisted_bytes(width=width, steps=options.steps, itemsize=2),
    tolerance=4e-2,
  )


def report(case: Case, rate: float, options: Options) -> None:
  """Checks each implementation against the reference, times it, and prints. Raises ValueError where one differs."""
  import jax
  import numpy as np

  print(f'{case.title}: {case.bytes / 1e6:.1f} MB, {1e6 * case.bytes / rate:.1f} µs at the rate of a copy')

  def once(name):
    call = jax.jit(functools.partial(case.call, name))
    return np.asarray(call(case.start, case.given), np.float32)

  want = once('reference')
  for name in options.implementations:
    error = np.abs(once(name) - want).max() / np.abs(want).max()
    if not error <= case.tolerance:
      raise ValueError(f'{name}: differs from the reference by {error:.2g} of its largest value')
    # Dependent on the result, and equal to the start but for rounding: 0 · out is not simplified away.
    call = functools.partial(case.call, name)
    took = seconds(lambda x, given, call=call: x + 0 * call(x, given), case.start, case.given, options)
    print(f'  {name:12} {1e6 * took:9.1f} µs  {case.bytes / took / rate:5.2f} of a copy  error {error:.1e}', flush=True)


def work(options: Options) -> None:
  """Measures and prints."""
  import jax

  rate = bandwidth(options)
  print(f'{jax.devices()[0].device_kind}: a copy moves {rate / 1e9:.0f} GB/s')
  report(tree(options), rate, options)
  for name in options.heads:
    report(head(options, shapes.HEAD[name]), rate, options)


def main(argv: Sequence[str]) -> int:
  """Runs the program; returns its exit status."""
  return command.run(argv, __doc__, Options, work)


if __name__ == '__main__':
  sys.exit(main(sys.argv))
