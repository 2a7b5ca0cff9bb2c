"""Speed and endurance of the isolated Python: calls a second, latency, against a fresh interpreter; and a soak.

  python -m bench.perf.sandbox [--seconds=5] [--concurrency=4] [--workers=2] [--backend=…]
  python -m bench.perf.sandbox --soak=100000

The fresh interpreter (`python -c 'import sympy'`, as the service would pay it for each call) is timed in the same run,
before and after. Processor seconds are those of the whole sandbox and of this process; on a shared machine only they
mean something. The soak mixes good and bad calls and compares what the sandbox holds (memory with shared pages counted
once, processes, descriptors, mounts) after a tenth of the calls and at the end.
"""

import collections
import os
import resource
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
from absl import app, flags

from agents.sandbox import Limits, Pool

FLAGS = flags.FLAGS
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


def family(pool: Pool) -> list[psutil.Process]:
  """The launcher, the zygote and the slots."""
  launcher = psutil.Process(pool._seed.process.pid)
  return [launcher, *launcher.children(recursive=True)]


def processor(pool: Pool) -> float:
  """Processor seconds so far of the sandbox (ended calls included) and of this process."""
  return time.process_time() + sum(sum(p.cpu_times()[:4]) for p in family(pool)[1:])


def fresh(times: int) -> tuple[float, float]:
  """Least wall and processor seconds of a fresh interpreter that imports sympy."""
  walls, cpus = [], []
  for _ in range(times):
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, '-c', 'import sympy'], check=True)
    walls.append(time.perf_counter() - start)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpus.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
  return min(walls), min(cpus)


def measure(pool: Pool, code: str) -> dict[str, float]:
  """Rate and latency of a call at the asked concurrency."""

  def one(_):
    start = time.perf_counter()
    result = pool.run(code)
    if not result.ok:
      raise RuntimeError(f'{code!r} gave {result}')
    return time.perf_counter() - start

  with ThreadPoolExecutor(FLAGS.concurrency) as threads:
    list(threads.map(one, range(20)))
    times, cpu, start = [], processor(pool), time.perf_counter()
    while time.perf_counter() - start < FLAGS.seconds:
      times += threads.map(one, range(50))
    wall, cpu = time.perf_counter() - start, processor(pool) - cpu
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
  processes = family(pool)
  mounts = [Path(f'/proc/{p.pid}/mountinfo').read_bytes().count(b'\n') for p in processes]
  return {
    'KiB': sum(p.memory_full_info().pss for p in processes) // 1024,
    'processes': len(processes),
    'descriptors': sum(p.num_fds() for p in processes) + len(os.listdir('/proc/self/fd')),
    'mounts': max(mounts),
    'own KiB': psutil.Process().memory_info().rss // 1024,
  }


def soak(pool: Pool, calls: int) -> None:
  """Runs the mix; exits with an error when something grows or the harness fails more than once in a thousand."""
  counts, wrong, before = collections.Counter(), 0, None
  with ThreadPoolExecutor(FLAGS.concurrency) as threads:
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
    sys.exit(f'FAILED: grown {grown}, harness {counts["harness"]}, unexpected {wrong}')


def main(_) -> None:
  """Prints the figures, or runs the soak."""
  with Pool(FLAGS.workers, Limits(wall=20.0), profile='sympy', backend=FLAGS.backend) as pool:
    print(f'{pool.report}; workers {pool.workers}, callers {FLAGS.concurrency}, load {os.getloadavg()[0]:.1f}')
    if FLAGS.soak:
      soak(pool, FLAGS.soak)
      return
    wall, cpu = fresh(3)
    results = {name: measure(pool, code) for name, code in CALLS.items()}
    wall, cpu = (min(a, b) for a, b in zip((wall, cpu), fresh(3)))
  print(f'fresh import of sympy: {1e3 * wall:.0f} ms wall, {1e3 * cpu:.0f} ms cpu')
  for name, figures in results.items():
    figures |= {'fresh/wall': 1e3 * wall / figures['ms wall/call'], 'fresh/cpu': 1e3 * cpu / figures['ms cpu/call']}
    print(name, '  '.join(f'{k} {v:.4g}' for k, v in figures.items()))


if __name__ == '__main__':
  flags.DEFINE_float('seconds', 5.0, 'time to measure each kind of call for', lower_bound=0.1)
  flags.DEFINE_integer('concurrency', 4, 'callers at once', lower_bound=1)
  flags.DEFINE_integer('workers', 2, 'calls that run at once', lower_bound=1)
  flags.DEFINE_enum('backend', None, ['namespaces', 'landlock', 'rlimits'], 'isolation; by default the strongest here')
  flags.DEFINE_integer('soak', 0, 'calls of the soak; 0 measures speed instead', lower_bound=0)
  app.run(main)
