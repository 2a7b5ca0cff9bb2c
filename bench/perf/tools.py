"""The tool service under a thousand clients that are half open, slow, broken off or misdirected.

  python -m bench.perf.tools [--clients=1000] [--seconds=20] [--callers=4] [--workers=2]

A server is started as in production. Good callers run `6 * 7` one after another, first alone, then while the crowd of
`bench.perf.crowd` is there, then alone again. Prints their latency in each phase and the ratio, what became of the
crowd, and the server's descriptors, memory and processor time in each phase. Callers, crowd and sandbox run on the same
cores as the server; the cores that each takes are printed, for a busy machine stretches latencies but not these.
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

  first: of the first call of each caller, which connects; the others use its connection. cores: processor seconds a
  second of the server, of the sandbox and of the callers.
  """

  first: np.ndarray
  latencies: np.ndarray
  failed: int
  descriptors: int
  memory: int  # bytes
  cores: dict[str, float]

  def quantile(self, q: float) -> float:
    """A quantile of the latencies, in milliseconds."""
    return float(1e3 * np.quantile(self.latencies, q))


@dataclasses.dataclass(frozen=True)
class Report:
  """The phases by name, what became of the crowd and how many cores it took, and the server's standard error."""

  phases: dict[str, Phase]
  crowd: dict[str, dict[str, int]]
  crowd_cores: float
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
  start = time.monotonic()
  before = _processor_seconds(server)
  first, latencies, failed = asyncio.run(_call(server, options.callers, seconds))
  after = _processor_seconds(server)
  elapsed = time.monotonic() - start
  cores = {name: (after[name] - before[name]) / elapsed for name in before}
  return Phase(
    first=np.array(first),
    latencies=np.array(latencies),
    failed=failed,
    descriptors=server.process.num_fds(),
    memory=server.process.memory_info().rss,
    cores=cores,
  )


def _processor_seconds(server: Server) -> dict[str, float]:
  """Of the server, of the sandbox with the calls that have ended, and of the callers, which are this process."""
  import psutil

  sandbox = 0.0
  for process in server.process.parent().children(recursive=True):
    if process != server.process:
      with contextlib.suppress(psutil.Error):  # it has just ended
        sandbox += sum(process.cpu_times()[:4])  # user and system, its own and that of its ended children
  return {'server': sum(server.process.cpu_times()[:4]), 'sandbox': sandbox, 'callers': time.process_time()}


def _come(target: crowd.Target, clients: int, seconds: float, results) -> None:
  """The body of the crowd's process."""
  began = time.process_time()
  outcomes = asyncio.run(crowd.crowd(target, clients, seconds))
  cores = (time.process_time() - began) / seconds
  results.send(({kind: dict(counts) for kind, counts in outcomes.items()}, cores))


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
    outcomes, cores = ours.recv()
    coming.join()
    _phase(server, options, 1.0)
    phases['alone again'] = _phase(server, options, options.seconds)
  with open(errors, encoding='utf-8', errors='replace') as stream:
    return Report(phases, outcomes, cores, stream.read())


def table(phases: dict[str, Phase]) -> str:
  """A line for each phase."""
  names = ('calls', 'failed', 'first ms', 'p50 ms', 'p95 ms', 'descriptors', 'MiB', 'server', 'sandbox', 'callers')
  lines = [' ' * 14 + ' '.join(f'{name:>11}' for name in names)]
  for name, phase in phases.items():
    counts = (len(phase.latencies), phase.failed)
    times = (1e3 * phase.first.max(), phase.quantile(0.5), phase.quantile(0.95))
    cells = [
      *map(str, counts),
      *(f'{milliseconds:.1f}' for milliseconds in times),
      str(phase.descriptors),
      f'{phase.memory / 2**20:.1f}',
      *(f'{cores:.2f}' for cores in phase.cores.values()),
    ]
    lines.append(f'{name:14}' + ' '.join(f'{cell:>11}' for cell in cells))
  return '\n'.join([*lines, 'The last three columns are cores.'])


def work(options: Options) -> None:
  """Measures and prints."""
  with tempfile.NamedTemporaryFile() as errors:
    report = measure(options, errors.name)
  print(table(report.phases))
  alone = report.phases['alone']
  crowded = report.phases['with the crowd']
  print(f'latency with the crowd over alone: p50 {crowded.quantile(0.5) / alone.quantile(0.5):.2f}, ', end='')
  print(f'p95 {crowded.quantile(0.95) / alone.quantile(0.95):.2f}')
  print(f'cores that the crowd took: {report.crowd_cores:.2f}')
  for kind, counts in report.crowd.items():
    print(f'  {kind:12} {counts}')
  print(f'lines on standard error: {len(report.errors.splitlines())}')


def main(argv: Sequence[str]) -> int:
  """Runs the program; returns its exit status."""
  return command.run(argv, __doc__, Options, work)


if __name__ == '__main__':
  sys.exit(main(sys.argv))
