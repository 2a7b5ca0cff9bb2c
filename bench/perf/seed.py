"""Speed of the SEED scorer on one core: pairs a second, median, 99th percentile.

  python -m bench.perf.seed [--pairs=FILE.jsonl] [--seconds=10] [--compat]

FILE holds objects with `gt`, `pred`, `type` and, optionally, `group` (the group "huge" is left out);
by default the project's own test pairs are used. With --compat, and latex2sympy2_extended installed, the
published scorer's way (mode="compat") is timed on the same pairs in the same run.
"""

import dataclasses
import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from core.launch import command
from core.launch.fields import field

_OWN = Path(__file__).parents[2] / 'tests' / 'bench' / 'seed' / 'pairs.tsv'


def read_pairs(path: str | None) -> list[tuple[str, str, str]]:
  """(reference, prediction, kind) of every ordinary pair."""
  if path is None:
    rows = [line.split('\t') for line in _OWN.read_text(encoding='utf-8').splitlines() if line[:1] != '#']
    return [(reference, prediction, kind) for kind, reference, prediction, *_ in rows]
  rows = map(json.loads, Path(path).read_text(encoding='utf-8').splitlines())
  return [(r['gt'], r['pred'], r['type']) for r in rows if r.get('group') != 'huge']


def measure(pairs: list[tuple[str, str, str]], seconds: float, mode: str) -> dict[str, float]:
  """Whole passes over the pairs for about `seconds`, after one pass to warm up."""
  from bench.seed import score

  for pair in pairs:
    score(*pair, mode=mode)
  times: list[float] = []
  start = time.process_time()
  while not times or time.process_time() - start < seconds:
    for pair in pairs:
      before = time.process_time()
      score(*pair, mode=mode)
      times.append(time.process_time() - before)
  ranked = sorted(times)
  return {
    'pairs': len(pairs),
    'pairs/s': len(times) / sum(times),
    'median ms': 1e3 * statistics.median(ranked),
    'p99 ms': 1e3 * ranked[int(0.99 * len(ranked))],
    'slowest ms': 1e3 * ranked[-1],
  }


@dataclasses.dataclass(frozen=True)
class Options:
  """The program's flags."""

  pairs: str | None = field(None, "JSONL of pairs; the project's own by default")
  seconds: float = field(10.0, 'processor seconds to measure for', low=0)
  compat: bool = field(False, "time the published scorer's way on the same pairs too")


def work(options: Options) -> None:
  """Times the scorer, and the published one where it is installed."""
  pairs = read_pairs(options.pairs)
  modes = ('strict', 'compat') if options.compat else ('strict',)
  results = {mode: measure(pairs, options.seconds, mode) for mode in modes}
  for mode, result in results.items():
    print(mode, '  '.join(f'{name} {value:.4g}' for name, value in result.items()))
  if 'compat' in results:
    ratio = results['strict']['pairs/s'] / results['compat']['pairs/s']
    print(f'strict is {ratio:.1f} times as fast as compat')


def main(argv: Sequence[str]) -> int:
  """Runs the program; returns its exit status."""
  return command.run(argv, __doc__, Options, work)


if __name__ == '__main__':
  sys.exit(main(sys.argv))
