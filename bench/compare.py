"""Compares two results of one benchmark on the questions they share, by paired bootstrap.

  python -m bench.compare runs/aime/a runs/aime/b

Each argument is a folder that `bench.run` wrote, or its results.jsonl. Differences are first minus second.
"""

import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.harness.rows import read_rows
from bench.harness.store import write_text
from bench.harness.task import Column, Example, Item
from bench.report import stats
from bench.report.summary import columns, metric_names
from core.launch import command
from core.launch.fields import field

# What must agree for two numbers to mean the same thing.
_SAME = ('task', 'prompt_hash', 'scorer', 'tool')


MOST_FLIPPED = 50  # lines on the terminal; the JSON file has all


@dataclasses.dataclass(frozen=True)
class Results:
  """One finished run as read from its folder."""

  name: str
  items: Mapping[str, Item]
  report: Mapping


def read(path: str) -> Results:
  """Results of a run. Raises FileNotFoundError or ValueError naming the file and what is wrong with it."""
  root = Path(path)
  file = root / 'results.jsonl' if root.is_dir() else root
  if not file.is_file():
    raise FileNotFoundError(f'{file}: no such file; expected a folder of bench.run, or its results.jsonl')
  rows = read_rows(str(file))
  items = {}
  for where, row in rows.rows:
    try:
      scores = {str(k): (float(a), float(b)) for k, (a, b) in row['scores'].items()}
      example = Example(str(row['id']), {}, row['groups'], str(row['unit']))
    except (KeyError, TypeError, ValueError, AttributeError):
      raise ValueError(f'{where}: not a line of results.jsonl') from None
    items[example.id] = Item(example, (), (), scores)
  page = file.parent / 'report.json'
  report = json.loads(page.read_text(encoding='utf-8')) if page.is_file() else {}
  return Results(report.get('model') or str(file), items, report)


def compare(a: Results, b: Results, *, metrics: Sequence[str] = (), resamples: int = 10_000, seed: int = 0) -> dict:
  """Both values and their difference for each metric. Raises ValueError when the two share no question."""
  shared = [key for key in a.items if key in b.items]
  if not shared:
    raise ValueError(f'{a.name} and {b.name} share no question')
  ours, theirs = [a.items[k] for k in shared], [b.items[k] for k in shared]
  composites = {
    name: [Column(c['metric'], tuple(c['group']) if c['group'] else None) for c in parts]
    for name, parts in a.report.get('composites', {}).items()
  }
  known = composites | {m: [Column(m)] for m in metric_names(ours) if m in set(metric_names(theirs))}
  for name in metrics:
    if name not in known:
      raise ValueError(f'--metric={name}: expected one of {", ".join(known)}')
  table = {}
  for name in metrics or known:
    pair = [columns(items, known[name]) for items in (ours, theirs)]
    if all(stats.estimate(*side, resamples=100).value is not None for side in pair):
      table[name] = {
        'a': stats.value_of(*pair[0]),
        'b': stats.value_of(*pair[1]),
        **dataclasses.asdict(stats.paired(*pair, resamples=resamples, seed=seed)),
      }
  return {
    'a': a.name,
    'b': b.name,
    'shared': len(shared),
    'only_a': len(a.items) - len(shared),
    'only_b': len(b.items) - len(shared),
    'differs': _differs(a.report, b.report),
    'metrics': table,
    'flipped': flipped(ours, theirs, a.report.get('primary') or metric_names(ours)[0]),
  }


def flipped(ours: Sequence[Item], theirs: Sequence[Item], metric: str) -> list[dict]:
  """The questions whose value of `metric` differs, largest difference first: id, metric, a, b."""
  rows = []
  for mine, other in zip(ours, theirs):
    pair = [item.scores.get(metric) for item in (mine, other)]
    if any(score is None or not score[1] for score in pair):
      continue
    a, b = (above / below for above, below in pair)
    if a != b:
      rows.append({'id': mine.example.id, 'metric': metric, 'a': a, 'b': b})
  return sorted(rows, key=lambda row: -abs(row['a'] - row['b']))


def _differs(a: Mapping, b: Mapping) -> list[str]:
  if not a or not b:
    return ['one of the two has no report.json next to it, so settings could not be checked']
  found = [f'{key}: {a.get(key)} against {b.get(key)}' for key in _SAME if a.get(key) != b.get(key)]
  files = [sorted(r['data']['files'].values()) for r in (a, b)]
  return [*found, *(['the data files differ'] if files[0] != files[1] else [])]


def text(result: Mapping) -> str:
  """The comparison as lines for a terminal."""
  lines = [
    f'a: {result["a"]}',
    f'b: {result["b"]}',
    f'{result["shared"]} questions in both, {result["only_a"]} only in a, {result["only_b"]} only in b',
  ]
  lines += [f'WARNING: {what}' for what in result['differs']]
  lines += ['', f'{"metric":>32} {"a":>9} {"b":>9} {"a - b":>9}   95 % interval        p']
  for name, m in result['metrics'].items():
    value, low, high = (round(m[key], 4) + 0.0 for key in ('value', 'low', 'high'))  # no minus before a zero
    lines.append(f'{name:>32} {m["a"]:9.4f} {m["b"]:9.4f} {value:+9.4f}   [{low:+.4f}, {high:+.4f}]  {m["p"]:.4f}')
  rows = result['flipped']
  if rows:
    more = f', the first {MOST_FLIPPED}' if len(rows) > MOST_FLIPPED else ''
    lines += ['', f'{len(rows)} questions differ in {rows[0]["metric"]}{more}:']
    lines += [f'{row["a"]:9.4f} {row["b"]:9.4f}   {row["id"]}' for row in rows[:MOST_FLIPPED]]
  return '\n'.join(lines)


@dataclasses.dataclass(frozen=True)
class Options:
  """The program's flags."""

  resamples: int = field(10_000, 'bootstrap resamples', low=100)
  seed: int = field(0, 'seed of the bootstrap', low=0)
  metric: tuple[str, ...] = field((), 'only this metric', repeated=True)
  out: str | None = field(None, 'also write the comparison to this JSON file')
  results: tuple[str, ...] = field((), 'two results', positional=True)

  def __post_init__(self):
    if len(self.results) != 2:
      raise ValueError(f'expected two results, got {len(self.results)}')


def work(options: Options) -> None:
  """Compares the two runs that the options name."""
  a, b = (read(path) for path in options.results)
  result = compare(a, b, metrics=options.metric, resamples=options.resamples, seed=options.seed)
  print(text(result))
  if options.out:
    write_text(Path(options.out), json.dumps(result, ensure_ascii=False, indent=1) + '\n')


def main(argv: Sequence[str]) -> int:
  """Runs the program; returns its exit status."""
  return command.run(argv, __doc__, Options, work)


if __name__ == '__main__':
  sys.exit(main(sys.argv))
