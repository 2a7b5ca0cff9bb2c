"""From scored items to numbers: every metric, composite and group with its interval."""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from bench.harness.task import Column, Item, Task
from bench.report import stats
from core.report.intervals import wilson

TWO_LEVEL_BELOW = 8  # with fewer samples than this a problem, samples are drawn again too


def summarise(task: Task, items: Sequence[Item], *, resamples: int = stats.RESAMPLES, seed: int = 0) -> dict:
  """metrics, groups, statuses and the task's extras, as plain data."""
  draw = {'resamples': resamples, 'seed': seed}
  composites = task.composites(items)
  metrics = {name: _estimate(*columns(items, parts), draw) for name, parts in composites.items()}
  names = metric_names(items)
  first = [name for name in task.metric_order if name in names]
  for metric in dict.fromkeys([*first, *names]):
    metrics[metric] = _metric(items, metric, draw)
  return {
    'metrics': metrics,
    'groups': _groups(task, items, draw),
    'composites': {name: [dataclasses.asdict(c) for c in parts] for name, parts in composites.items()},
    'statuses': dict(sorted(Counter(o.status for item in items for o in item.outcomes).items())),
    'cut_off': _share(a.finish == 'length' for item in items for a in item.answers),
    'no_answer': _share(o.answer is None for item in items for o in item.outcomes),
    'extras': dict(task.extras(items)),
  }


def metric_names(items: Sequence[Item]) -> list[str]:
  """Names of the metrics that the items have, in order."""
  return list(dict.fromkeys(metric for item in items for metric in item.scores))


def columns(items: Sequence[Item], parts: Sequence[Column]) -> tuple[np.ndarray, np.ndarray]:
  """Numerators and denominators [units, columns], summed within each resampled unit."""
  units = {unit: i for i, unit in enumerate(dict.fromkeys(item.example.unit for item in items))}
  num, den = np.zeros((2, len(units), len(parts)))
  for item in items:
    row = units[item.example.unit]
    for j, part in enumerate(parts):
      if part.metric not in item.scores:
        continue
      if part.group is None or item.example.groups.get(part.group[0]) == part.group[1]:
        above, below = item.scores[part.metric]
        num[row, j] += above
        den[row, j] += below
  return num, den


def _metric(items: Sequence[Item], metric: str, draw: Mapping) -> dict:
  num, den = columns(items, [Column(metric)])
  out = _estimate(num, den, draw)
  samples = {len(item.outcomes) for item in items}
  if len(samples) == 1 and 1 < (n := samples.pop()) < TWO_LEVEL_BELOW and len(num) == len(items):
    pairs = [[o.scores.get(metric) for o in item.outcomes] for item in items]
    if all(pair is not None for row in pairs for pair in row):
      table = np.array(pairs, float).reshape(len(items), n, 2)
      out['low'], out['high'] = stats.percentile(stats.two_level(table[..., 0], table[..., 1], **draw))
      out = _widened(out)
  if np.all(den == 1) and np.all((num == 0) | (num == 1)):
    out['wilson'] = list(wilson(float(num.sum()), len(num)))
  return out


def _estimate(num, den, draw: Mapping) -> dict:
  return _widened(dataclasses.asdict(stats.estimate(num, den, **draw)))


def _widened(estimate: dict) -> dict:
  """An estimate whose resamples were all equal gets Wilson's interval over its problems: 0 of n is not exactly 0."""
  value, problems = estimate['value'], estimate['problems']
  if value is None or not 0 <= value <= 1 or estimate['low'] != estimate['high']:
    return estimate
  low, high = wilson(value * problems, problems)
  return {**estimate, 'low': max(0.0, low), 'high': min(1.0, high)}


def _groups(task: Task, items: Sequence[Item], draw: Mapping) -> dict:
  """group → value → metric → estimate; the problems of a group are resampled among themselves."""
  keys = dict.fromkeys(key for item in items for key in item.example.groups)
  metrics = [m for m in task.group_metrics if m in set(metric_names(items))]
  table: dict[str, dict] = {}
  for key in keys:
    values = sorted({item.example.groups[key] for item in items if key in item.example.groups})
    inside = {value: [item for item in items if item.example.groups.get(key) == value] for value in values}
    table[key] = {
      value: {m: _estimate(*columns(part, [Column(m)]), draw) for m in metrics} for value, part in inside.items()
    }
  return table if metrics else {}


def _share(flags) -> float | None:
  flags = list(flags)
  return sum(flags) / len(flags) if flags else None
