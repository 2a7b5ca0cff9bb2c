"""What a start costs: the imports, `--help`, and the first and second start of a toy job.

  python -m bench.perf.start

Each is a process of its own: CPU seconds of all its threads, and seconds by the clock. The job makes one step. Its
first start finds an empty cache of compiled programs (`--compilation_cache`), its second what the first has left there.
"""

import dataclasses
import pathlib
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

from bench.perf.measuring import report
from core.launch import command
from core.launch.fields import field


@dataclasses.dataclass(frozen=True)
class Options:
  """The program's flags."""

  program: str = field('rl.train', 'a program that trains')
  config: str = field('smoke', 'a toy job of it')
  json: bool = field(False, 'print JSON')


def measure(what: str, arguments: Sequence[str]) -> report.Row:
  """Seconds of Python with these arguments. Raises ValueError, with its last lines, where it fails."""
  before = resource.getrusage(resource.RUSAGE_CHILDREN)
  start = time.perf_counter()
  done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
  seconds = time.perf_counter() - start
  after = resource.getrusage(resource.RUSAGE_CHILDREN)
  if done.returncode:
    raise ValueError(f'{what}: {done.stderr[-500:]}')
  user = after.ru_utime - before.ru_utime
  system = after.ru_stime - before.ru_stime
  return {'what': what, 'CPU s': user + system, 'seconds': seconds}


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
      report.show(measure(what, arguments), as_json=options.json)


def main(argv: Sequence[str]) -> int:
  """Runs the program; returns its exit status."""
  return command.run(argv, __doc__, Options, work)


if __name__ == '__main__':
  sys.exit(main(sys.argv))
