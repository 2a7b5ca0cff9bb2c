"""What a start costs: the imports, `--help`, and the first and second start of a toy job.

  python -m bench.perf.start

Each is a process of its own: CPU seconds of all its threads, and seconds by the clock. The job makes one step. Its
first start finds an empty cache of compiled programs (`--compilation_cache`), its second what the first has left there.
Below the first are the programs that took longest to compile, by JAX's log, in seconds by the clock.
"""

import collections
import dataclasses
import os
import pathlib
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

from bench.perf.measuring import report
from core.launch import command
from core.launch.fields import field

COMPILED = re.compile(r'Finished XLA compilation of jit\((.+?)\) in ([\d.]+) sec')
SHOWN = 6  # programs of a first start


@dataclasses.dataclass(frozen=True)
class Options:
  """The program's flags."""

  program: str = field('rl.train', 'a program that trains')
  config: str = field('smoke', 'a toy job of it')
  json: bool = field(False, 'print JSON')


def measure(what: str, arguments: Sequence[str]) -> tuple[report.Row, str]:
  """(seconds of Python with these arguments, its log). Raises ValueError, with its last lines, where it fails."""
  before = resource.getrusage(resource.RUSAGE_CHILDREN)
  start = time.perf_counter()
  environment = os.environ | {'JAX_LOG_COMPILES': '1'}
  command_line = [sys.executable, *arguments]
  done = subprocess.run(command_line, capture_output=True, text=True, check=False, env=environment)
  seconds = time.perf_counter() - start
  after = resource.getrusage(resource.RUSAGE_CHILDREN)
  if done.returncode:
    raise ValueError(f'{what}: {done.stderr[-500:]}')
  user = after.ru_utime - before.ru_utime
  system = after.ru_stime - before.ru_stime
  return {'what': what, 'CPU s': user + system, 'seconds': seconds}, done.stderr


def compiling(log: str) -> report.Row:
  """Seconds of compilation by the name of a jitted function, the longest first, and those of all others."""
  seconds: collections.Counter[str] = collections.Counter()
  for name, taken in COMPILED.findall(log):
    seconds[f'{name} s'] += float(taken)
  longest = dict(seconds.most_common(SHOWN))
  others = seconds.total() - sum(longest.values())
  return {'what': 'compiling', **longest, 'others s': others}


def job(options: Options, folder: pathlib.Path, name: str) -> list[str]:
  """Python's arguments for one step of the job in a workdir of this name."""
  flags = [f'--config={options.config}', '--config.steps=1']
  places = [f'--workdir={folder / name}', f'--compilation_cache={folder / "compiled"}']
  return ['-m', options.program, *flags, *places]


def work(options: Options) -> None:
  """Measures each kind of start."""
  report.show(report.machine(), as_json=options.json)
  with tempfile.TemporaryDirectory() as made:
    folder = pathlib.Path(made)
    starts = {
      'imports': ['-c', f'import {options.program}'],
      'help': ['-m', options.program, '--help'],
      'first start': job(options, folder, 'first'),
      'second start': job(options, folder, 'second'),
    }
    for what, arguments in starts.items():
      row, log = measure(what, arguments)
      report.show(row, as_json=options.json)
      if what == 'first start':
        report.show(compiling(log), as_json=options.json)


def main(argv: Sequence[str]) -> int:
  """Runs the program; returns its exit status."""
  return command.run(argv, __doc__, Options, work)


if __name__ == '__main__':
  sys.exit(main(sys.argv))
