"""Samples of one long prompt against as many different prompts, in the engine.

  python -m bench.perf.shared_prompt [--prompt=1024 --leaves=16 --new=8]

A random Qwen3-shaped float32 model; CPU seconds of one pinned thread from the first submission until the engine is
idle, arms interleaved, the best of the repeats. Every repeat has prompts of its own, so nothing is found in the prefix
cache but what the arm itself filled in.
"""

import dataclasses
import itertools
import sys
from collections.abc import Sequence

from bench.perf.measuring import qwen, report
from bench.perf.measuring.clock import fastest
from bench.perf.measuring.pinned import pin
from core.launch import command
from core.launch.fields import field

# jax is imported by the functions that need it: `pin` must come before its first import.


@dataclasses.dataclass(frozen=True)
class Options(qwen.Shape):
  """The program's flags."""

  prompt: int = field(1024, 'tokens of a prompt', low=2)
  leaves: int = field(16, 'samples', low=1)
  new: int = field(8, 'new tokens of each', low=1)
  page_size: int = field(16, 'tokens of a page', low=1)
  chunk: int = field(512, 'prompt tokens filled in at a time', low=1)
  repeats: int = field(3, 'timed runs of each arm', low=1)
  json: bool = field(False, 'print lines of JSON')


def engine(options: Options):
  """An engine with pages for all different prompts at once, twice: the earlier ones are evicted."""
  import jax

  from core import decoder
  from core.engine import Engine

  shape = qwen.ours(options, max_length=options.prompt + options.new)
  params = decoder.init(jax.random.key(0), shape)
  row = -(-(options.prompt + options.new) // options.page_size) + 1
  return Engine(
    params,
    shape,
    slots=options.leaves,
    pages=2 * options.leaves * row,
    page_size=options.page_size,
    segment=options.new,
    chunk=options.chunk,
  )


def work(options: Options) -> None:
  """Times both arms and prints their ratio."""
  pin()
  import numpy as np

  from core.engine import Request

  made = engine(options)
  fresh = itertools.count()

  def prompt() -> list[int]:
    return np.random.default_rng(next(fresh)).integers(1, options.vocab, options.prompt).tolist()

  def ask(n: int, prompts: int) -> None:
    for _ in range(prompts):
      made.submit(Request(prompt(), max_new=options.new, n=n, temperature=1.0))
    made.run()

  arms = {
    'one prompt': lambda: ask(options.leaves, 1),
    'different prompts': lambda: ask(1, options.leaves),
  }
  for run in arms.values():
    run()
  seconds = fastest(arms, repeats=options.repeats)
  ratio = seconds['different prompts'] / seconds['one prompt']
  figures = {f'{name} ms': 1e3 * least for name, least in seconds.items()}
  title = f'{options.leaves} samples, prompts of {options.prompt}, {options.new} new tokens'
  report.show({'what': title, **figures, 'ratio': ratio}, as_json=options.json)
  report.show(report.machine(), as_json=options.json)


def main(argv: Sequence[str]) -> int:
  """Runs the program; returns its exit status."""
  return command.run(argv, __doc__, Options, work)


if __name__ == '__main__':
  sys.exit(main(sys.argv))
