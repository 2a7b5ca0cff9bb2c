"""The tool service under a thousand clients that are half open, slow, broken off or misdirected.

  python -m bench.perf.tools [--clients=1000] [--seconds=20] [--callers=4] [--workers=2]

A server is started as in production. Good callers run `6 * 7` one after another, first alone, then while the crowd of
`bench.perf.crowd` is there, then alone again. Prints their latency in each phase and the ratio, what became of the
crowd, and the server's descriptors and memory in each phase.
"""

import asyncio
import contextlib
import dataclasses
import multiprocessing
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from bench.perf import crowd
from core.launch import command
from core.launch.fields import field

if TYPE_CHECKING:
  import psutil


@dataclasses.dataclass(frozen=True)
class Options:
  """The program's flags."""

  clients: int = field(1000, 'clients of the crowd', low=1)
  seconds: float = field(20.0, 'length of each phase', low=1.0)
  callers: int = field(4, 'good callers', low=1)
  workers: int = field(2, 'workers of the service', low=1)


@dataclasses.dataclass(frozen=True)
class Server:
  """A running service: its process that serves, its address, and the file of its standard error."""

  process: 'psutil.Process'
  host: str
  port: int
  token: str
  errors: str


@dataclasses.dataclass(frozen=True)
class Phase:
  """Latencies of the good callers in seconds, how many of their calls failed, and what the server holds afterwards.

  first: of the first call of each caller, which connects; the others use its connection.
  """

  first: np.ndarray
  latencies: np.ndarray
  failed: int
  descriptors: int
  memory: int  # bytes

  def quantile(self, q: float) -> float:
    """A quantile of the latencies, in milliseconds."""
    return float(1e3 * np.quantile(self.latencies, q))


@dataclasses.dataclass(frozen=True)
class Report:
  """The phases by name, what became of the crowd, and what the server wrote to standard error."""

  phases: dict[str, Phase]
  crowd: dict[str, dict[str, int]]
  errors: str


@contextlib.contextmanager
def served(workers: int, errors: str) -> Iterator[Server]:
  """A service on a free port of this machine."""
  flags = ['--port=0', f'--workers={workers}', '--profile=python', '--connections=4096']
  with (
    open(errors, 'wb') as stream,
    subprocess.Popen(
      [sys.executable, '-m', 'agents.serve_tools', *flags], stdout=subprocess.PIPE, stderr=stream, text=True
    ) as process,
  ):
    try:
      token = process.stdout.readline().strip().partition('=')[2]
      host, port = re.search(r'http://([\d.]+):(\d+)', process.stdout.readline()).groups()
      process.stdout.readline()  # the report on the sandbox: it serves
      yield Server(_serving(process.pid), host, int(port), token, errors)
    finally:
      process.terminate()


def _serving(holder: int) -> 'psutil.Process':
  """The child of the watching process that serves requests; the other child is the seed of the sandbox."""
  import psutil

  while True:
    for child in psutil.Process(holder).children():
      if 'agents.serve_tools' in child.cmdline():
        return child
    time.sleep(0.01)


async def _call(server: Server, callers: int, seconds: float) -> tuple[list[float], list[float], int]:
  """Latencies of first and of later good calls, and how many failed."""
  from agents.service.client import Client

  first = []
  latencies = []
  failed = 0
  ended = time.monotonic() + seconds

  async def caller(name: str) -> None:
    nonlocal failed
    client = Client(f'http://{server.host}:{server.port}', token=server.token)
    calls = 0
    while time.monotonic() < ended or calls < 2:
      start = time.monotonic()
      result = await client.run(name, '6 * 7')
      times = latencies if calls else first
      times.append(time.monotonic() - start)
      calls += 1
      failed += result.stdout != '42\n'
    await client.close()

  await asyncio.gather(*(caller(f'good {n}') for n in range(callers)))
  return first, latencies, failed


def _phase(server: Server, options: Options, seconds: float) -> Phase:
  first, latencies, failed = asyncio.run(_call(server, options.callers, seconds))
  return Phase(np.array(first), np.array(latencies), failed, server.process.num_fds(), server.process.memory_info().rss)


def _come(target: crowd.Target, clients: int, seconds: float, results) -> None:
  """The body of the crowd's process."""
  results.send({kind: dict(counts) for kind, counts in asyncio.run(crowd.crowd(target, clients, seconds)).items()})


def measure(options: Options, errors: str) -> Report:
  """Runs the three phases against a new server, whose standard error goes to the file `errors`."""
  context = multiprocessing.get_context('spawn')
  phases = {}
  with served(options.workers, errors) as server:
    _phase(server, options, 1.0)  # slots are forked
    phases['alone'] = _phase(server, options, options.seconds)
    target = crowd.Target(server.host, server.port, server.token)
    ours, theirs = context.Pipe(duplex=False)
    # It arrives before the phase, within two seconds, and leaves after it.
    coming = context.Process(target=_come, args=(target, options.clients, options.seconds + 6.0, theirs))
    coming.start()
    _phase(server, options, 4.0)
    phases['with the crowd'] = _phase(server, options, options.seconds)
    outcomes = ours.recv()
    coming.join()
    _phase(server, options, 1.0)
    phases['alone again'] = _phase(server, options, options.seconds)
  with open(errors, encoding='utf-8', errors='replace') as stream:
    return Report(phases, outcomes, stream.read())


def work(options: Options) -> None:
  """Measures and prints."""
  with tempfile.NamedTemporaryFile() as errors:
    report = measure(options, errors.name)
  print(
    f'{"":16} {"calls":>6} {"failed":>6} {"first ms":>8} {"p50 ms":>8} {"p95 ms":>8} {"descriptors":>12} {"MiB":>6}'
  )
  for name, phase in report.phases.items():
    memory = phase.memory / 2**20
    latencies = (1e3 * phase.first.max(), phase.quantile(0.5), phase.quantile(0.95))
    times = ' '.join(f'{milliseconds:8.1f}' for milliseconds in latencies)
    print(f'{name:16} {len(phase.latencies):6} {phase.failed:6} {times} {phase.descriptors:12} {memory:6.1f}')
  alone = report.phases['alone']
  crowded = report.phases['with the crowd']
  print(f'latency with the crowd over alone: p50 {crowded.quantile(0.5) / alone.quantile(0.5):.2f}, ', end='')
  print(f'p95 {crowded.quantile(0.95) / alone.quantile(0.95):.2f}')
  for kind, counts in report.crowd.items():
    print(f'  {kind:12} {counts}')
  print(f'lines on standard error: {len(report.errors.splitlines())}')


def main(argv: Sequence[str]) -> int:
  """Runs the program; returns its exit status."""
  return command.run(argv, __doc__, Options, work)


if __name__ == '__main__':
  sys.exit(main(sys.argv))
