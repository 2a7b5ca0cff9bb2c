"""What serving costs: scheduling with timers, a small InternVL coupled and decoupled, and `transformers` in comparison.

  python -m bench.perf.serve --part=timers        # both towers replaced by timers: only the scheduling is measured
  python -m bench.perf.serve --part=towers        # real towers on two cores, or --towers.places=accelerators
  python -m bench.perf.serve --part=transformers  # text, against `transformers` behind the simplest server

Each part prints its figures and what they are compared with; `bench/perf/serving` has a module for each.
"""

import dataclasses
import sys
from collections.abc import Sequence
from typing import Literal

from bench.perf.serving.options import Timers, Towers, Transformers
from core.launch import command
from core.launch.fields import field


@dataclasses.dataclass(frozen=True)
class Options:
  """The program's flags."""

  part: Literal['timers', 'towers', 'transformers'] = field('timers', 'what is measured')
  timers: Timers = field(Timers(), 'runs with timers')
  towers: Towers = field(Towers(), 'runs with a small InternVL')
  transformers: Transformers = field(Transformers(), 'runs against transformers')


def work(options: Options) -> None:
  """Measures one part and prints it."""
  # Imported late: processes that measure towers are pinned before jax is imported.
  if options.part == 'timers':
    from bench.perf.serving import timers

    timers.run(options.timers)
  elif options.part == 'towers':
    from bench.perf.serving import towers

    towers.run(options.towers)
  else:
    from bench.perf.serving import peer

    peer.run(options.transformers)


def main(argv: Sequence[str]) -> int:
  """Runs the program; returns its exit status."""
  return command.run(argv, __doc__, Options, work)


if __name__ == '__main__':
  sys.exit(main(sys.argv))
