"""Speed and endurance of the isolated Python: calls a second, latency, against a fresh interpreter; and a soak.

  python -m bench.perf.sandbox [--seconds=5] [--concurrency=4] [--workers=2] [--backend=…]
  python -m bench.perf.sandbox --soak=100000

The fresh interpreter (`python -c 'import sympy'`, as the service would pay it for each call) is timed in the same run,
before and after. Processor seconds are those of the whole sandbox and of this process; on a shared machine only they
mean something. The soak mixes good and bad calls and compares what the sandbox holds (memory with shared pages counted
once, processes, descriptors, mounts) after a tenth of the calls and at the end.
"""

import collections
import dataclasses
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from agents.sandbox import Limits, Pool
from core.launch import command
from core.launch.fields import field

if TYPE_CHECKING:
  import psutil

_SYMPY = 'from sympy import *\nx, y = symbols("x y")\n'
CALLS = {
  'trivial': '1 + 1',
  'sympy import': 'import sympy',  # what the fresh interpreter does
  'sympy expand': _SYMPY + 'expand((x + y)**4)',
  'sympy factor': _SYMPY + 'factor(x**4 - y**4)',
  'sympy diff': _SYMPY + 'diff(sin(x * y) * exp(x), x)',
  'sympy solve': _SYMPY + 'solve(x**2 - 5*x + y, x)',
}
SOAK = (
  ('1 + 1', 'ok'),
  ('print("x" * 10000)', 'ok'),
  ('1 / 0', 'error'),
  ('import math\nmath.pi = 3', 'ok'),
  ('open("f", "w").write("x" * 10**6)', 'ok'),
  ('import os\nfor i in range(3): os.fork() or os.setsid()', 'ok'),
  ('import os\nos._exit(3)', 'error'),
  ('bytearray(10**10)', 'error'),
  ('import os\nos.write(1, b"\\xff\\0")', 'ok'),
  ('import sympy\nsympy.factor(sympy.Symbol("x")**2 - 1)', 'ok'),
)


def family(pool: Pool) -> list['psutil.Process']:
  """The launcher, the zygote and the slots."""
  import psutil

  launcher = psutil.Process(pool._seed.process.pid)
  return [launcher, *launcher.children(recursive=True)]


def processor(pool: Pool) -> float:
  """Processor seconds so far of the sandbox (ended calls included) and of this process."""
  return time.process_time() + sum(sum(p.cpu_times()[:4]) for p in family(pool)[1:])


def fresh(times: int) -> tuple[float, float]:
  """Least wall and processor seconds of a fresh interpreter that imports sympy."""
  walls = []
  cpus = []
  for _ in range(times):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    subprocess.run([sys.executable, '-c', 'import sympy'], check=True)
    walls.append(time.perf_counter() - start)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpus.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
  return min(walls), min(cpus)


def measure(pool: Pool, code: str, *, concurrency: int, seconds: float) -> dict[str, float]:
  """Rate and latency of a call by that many callers, over about that many seconds."""

  def one(_):
    start = time.perf_counter()
    result = pool.run(code)
    if not result.ok:
      raise RuntimeError(f'{code!r} gave {result}')
    return time.perf_counter() - start

  with ThreadPoolExecutor(concurrency) as threads:
    list(threads.map(one, range(20)))
    times = []
    cpu = processor(pool)
    start = time.perf_counter()
    while time.perf_counter() - start < seconds:
      times += threads.map(one, range(50))
    wall = time.perf_counter() - start
    cpu = processor(pool) - cpu
  ranked = sorted(times)
  return {
    'calls': len(times),
    'calls/s': len(times) / wall,
    'ms wall/call': 1e3 * wall / len(times),
    'ms cpu/call': 1e3 * cpu / len(times),
    'p50 ms': 1e3 * ranked[len(times) // 2],
    'p99 ms': 1e3 * ranked[len(times) * 99 // 100],
  }


def held(pool: Pool) -> dict[str, int]:
  """What the sandbox holds now."""
  import psutil

  processes = family(pool)
  mounts = [Path(f'/proc/{p.pid}/mountinfo').read_bytes().count(b'\n') for p in processes]
  return {
    'KiB': sum(p.memory_full_info().pss for p in processes) // 1024,
    'processes': len(processes),
    'descriptors': sum(p.num_fds() for p in processes) + len(os.listdir('/proc/self/fd')),
    'mounts': max(mounts),
    'own KiB': psutil.Process().memory_info().rss // 1024,
  }


def soak(pool: Pool, calls: int, *, concurrency: int) -> int:
  """Runs the mix; 1 when something grows or more than one call in a thousand fails in the harness, else 0."""
  counts = collections.Counter()
  wrong = 0
  before = None
  with ThreadPoolExecutor(concurrency) as threads:
    for part in range(10):
      mix = [SOAK[i % len(SOAK)] for i in range(calls // 10)]
      for (code, status), result in zip(mix, threads.map(lambda c: pool.run(c[0]), mix)):
        counts[result.status] += 1
        if result.status != status:
          wrong += 1
          print(f'{code!r} gave {result}')
      now = held(pool)
      before = before or now
      print(f'{(part + 1) * (calls // 10)} calls: {now}', flush=True)
  print(dict(counts), f'{wrong} not as expected')
  grown = [k for k in now if now[k] > before[k] + (8192 if 'KiB' in k else 0)]
  if grown or counts['harness'] > 1e-3 * calls or wrong > 1e-3 * calls:
    print(f'FAILED: grown {grown}, harness {counts["harness"]}, unexpected {wrong}', file=sys.stderr)
    return 1
  return 0


@dataclasses.dataclass(frozen=True)
class Options:
  """The program's flags."""

  seconds: float = field(5.0, 'time to measure each kind of call for', low=0.1)
  concurrency: int = field(4, 'callers at once', low=1)
  workers: int = field(2, 'calls that run at once', low=1)
  backend: Literal['namespaces', 'landlock', 'rlimits'] | None = field(
    None, 'isolation; by default the strongest that this machine offers'
  )
  soak: int = field(0, 'calls of the soak; 0 measures speed instead', low=0)

  def __post_init__(self):
    if self.soak % 10:
      raise ValueError(f'--soak={self.soak}: expected a multiple of 10')


def work(options: Options) -> int:
  """Prints the figures, or runs the soak."""
  with Pool(options.workers, Limits(wall=20.0), profile='sympy', backend=options.backend) as pool:
    print(f'{pool.report}; workers {pool.workers}, callers {options.concurrency}, load {os.getloadavg()[0]:.1f}')
    if options.soak:
      return soak(pool, options.soak, concurrency=options.concurrency)
    wall, cpu = fresh(3)
    callers = {'concurrency': options.concurrency, 'seconds': options.seconds}
    results = {name: measure(pool, code, **callers) for name, code in CALLS.items()}
    wall, cpu = (min(a, b) for a, b in zip((wall, cpu), fresh(3)))
  print(f'fresh import of sympy: {1e3 * wall:.0f} ms wall, {1e3 * cpu:.0f} ms cpu')
  for name, figures in results.items():
    figures |= {'fresh/wall': 1e3 * wall / figures['ms wall/call'], 'fresh/cpu': 1e3 * cpu / figures['ms cpu/call']}
    print(name, '  '.join(f'{k} {v:.4g}' for k, v in figures.items()))
  return 0


def main(argv: Sequence[str]) -> int:
  """Runs the program; returns its exit status."""
  return command.run(argv, __doc__, Options, work)


if __name__ == '__main__':
  sys.exit(main(sys.argv))
