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

# Two numbers are comparable only if these settings agree.
_SAME = ('task', 'prompt_hash', 'scorer', 'tool')
MOST_FLIPPED = 50  # lines on the terminal; the JSON file has all


@dataclasses.dataclass(frozen=True)
class Results:
  """One finished run as read from its folder."""

  name: str
  items: Mapping[str, Item]
  report: Mapping


def read(path: str) -> Results:
  """Results of a run. Raises FileNotFoundError or ValueError naming the file and the fault."""
  root = Path(path)
  file = root / 'results.jsonl' if root.is_dir() else root
  if not file.is_file():
    raise FileNotFoundError(f'{file}: no such file; expected a folder of bench.run, or its results.jsonl')
  items = {}
  for where, row in read_rows(str(file)).rows:
    try:
      item = _item(row)
    except (KeyError, TypeError, ValueError, AttributeError):
      raise ValueError(f'{where}: not a line of results.jsonl') from None
    items[item.example.id] = item
  page = file.parent / 'report.json'
  report = {}
  if page.is_file():
    report = json.loads(page.read_text(encoding='utf-8'))
  return Results(report.get('model') or str(file), items, report)


def _item(row: Mapping) -> Item:
  """A line of results.jsonl, its scores only."""
  scores = {}
  for metric, (above, below) in row['scores'].items():
    scores[str(metric)] = (float(above), float(below))
  example = Example(str(row['id']), {}, row['groups'], str(row['unit']))
  return Item(example, (), (), scores)


def compare(a: Results, b: Results, *, metrics: Sequence[str] = (), resamples: int = 10_000, seed: int = 0) -> dict:
  """Both values and their difference for each metric. Raises ValueError if the two share no question."""
  shared = [key for key in a.items if key in b.items]
  if not shared:
    raise ValueError(f'{a.name} and {b.name} share no question')
  items_a = [a.items[key] for key in shared]
  items_b = [b.items[key] for key in shared]
  known = _parts(a.report, items_a, items_b)
  for name in metrics:
    if name not in known:
      raise ValueError(f'--metric={name}: expected one of {", ".join(known)}')
  table = {}
  for name in metrics or known:
    row = _difference(items_a, items_b, known[name], resamples=resamples, seed=seed)
    if row is not None:
      table[name] = row
  primary = a.report.get('primary') or metric_names(items_a)[0]
  return {
    'a': a.name,
    'b': b.name,
    'shared': len(shared),
    'only_a': len(a.items) - len(shared),
    'only_b': len(b.items) - len(shared),
    'differs': _differs(a.report, b.report),
    'metrics': table,
    'flipped': flipped(items_a, items_b, primary),
  }


def _parts(report: Mapping, items_a: Sequence[Item], items_b: Sequence[Item]) -> dict[str, list[Column]]:
  """The columns of each composite of the report, and of each metric that both runs have."""
  parts = {}
  for name, composite in report.get('composites', {}).items():
    parts[name] = [Column(c['metric'], tuple(c['group']) if c['group'] else None) for c in composite]
  names_b = set(metric_names(items_b))
  for metric in metric_names(items_a):
    if metric in names_b:
      parts[metric] = [Column(metric)]
  return parts


def _difference(
  items_a: Sequence[Item], items_b: Sequence[Item], parts: Sequence[Column], *, resamples: int, seed: int
) -> dict | None:
  """Both values of one metric and their paired difference; None if one of the runs has no value."""
  side_a = columns(items_a, parts)
  side_b = columns(items_b, parts)
  for side in (side_a, side_b):
    if stats.estimate(*side, resamples=100).value is None:
      return None
  values = {'a': stats.value_of(*side_a), 'b': stats.value_of(*side_b)}
  difference = stats.paired(side_a, side_b, resamples=resamples, seed=seed)
  return values | dataclasses.asdict(difference)


def flipped(items_a: Sequence[Item], items_b: Sequence[Item], metric: str) -> list[dict]:
  """The questions whose value of `metric` differs, largest difference first: id, metric, a, b."""
  rows = []
  for item_a, item_b in zip(items_a, items_b):
    a = _value(item_a, metric)
    b = _value(item_b, metric)
    if a is not None and b is not None and a != b:
      rows.append({'id': item_a.example.id, 'metric': metric, 'a': a, 'b': b})
  return sorted(rows, key=lambda row: -abs(row['a'] - row['b']))


def _value(item: Item, metric: str) -> float | None:
  """The value of a metric on one question; None without a score or with the denominator 0."""
  above, below = item.scores.get(metric) or (0.0, 0.0)
  if below:
    return above / below
  return None


def _differs(a: Mapping, b: Mapping) -> list[str]:
  """A line for each setting in which the two reports differ."""
  if not a or not b:
    return ['one of the two has no report.json next to it, so settings could not be checked']
  different = [key for key in _SAME if a.get(key) != b.get(key)]
  lines = [f'{key}: {a.get(key)} against {b.get(key)}' for key in different]
  digests_a = sorted(a['data']['files'].values())
  digests_b = sorted(b['data']['files'].values())
  if digests_a != digests_b:
    lines.append('the data files differ')
  return lines


def text(result: Mapping) -> str:
  """The comparison as lines for a terminal."""
  lines = [
    f'a: {result["a"]}',
    f'b: {result["b"]}',
    '{shared} questions in both, {only_a} only in a, {only_b} only in b'.format(**result),
  ]
  lines += [f'WARNING: {what}' for what in result['differs']]
  lines += ['', f'{"metric":>32} {"a":>9} {"b":>9} {"a - b":>9}   95 % interval        p']
  lines += [_metric_line(name, m) for name, m in result['metrics'].items()]
  lines += _flipped_lines(result['flipped'])
  return '\n'.join(lines)


def _metric_line(name: str, m: Mapping[str, float]) -> str:
  rounded = {key: round(m[key], 4) + 0.0 for key in ('value', 'low', 'high')}  # + 0.0 turns -0.0 into 0.0
  line = '{name:>32} {a:9.4f} {b:9.4f} {value:+9.4f}   [{low:+.4f}, {high:+.4f}]  {p:.4f}'
  return line.format(name=name, **{**m, **rounded})


def _flipped_lines(rows: Sequence[Mapping]) -> list[str]:
  if not rows:
    return []
  more = ''
  if len(rows) > MOST_FLIPPED:
    more = f', the first {MOST_FLIPPED}'
  title = f'{len(rows)} questions differ in {rows[0]["metric"]}{more}:'
  lines = ['{a:9.4f} {b:9.4f}   {id}'.format(**row) for row in rows[:MOST_FLIPPED]]
  return ['', title, *lines]


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
