"""From scored items to numbers: every metric, composite and group with its interval."""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from bench.harness.task import Column, Item, Task
from bench.report import stats
from core.report.intervals import wilson

TWO_LEVEL_BELOW = 8  # with fewer samples for each problem, the samples are resampled too


def summarise(task: Task, items: Sequence[Item], *, resamples: int = stats.RESAMPLES, seed: int = 0) -> dict:
  """metrics, groups, statuses and the task's extras, as plain data."""
  bootstrap = {'resamples': resamples, 'seed': seed}
  outcomes = [outcome for item in items for outcome in item.outcomes]
  answers = [answer for item in items for answer in item.answers]
  statuses = Counter(outcome.status for outcome in outcomes)
  metrics = {}
  composites = {}
  for name, parts in task.composites(items).items():
    metrics[name] = _estimate(*columns(items, parts), bootstrap)
    composites[name] = [dataclasses.asdict(column) for column in parts]
  names = metric_names(items)
  first = [name for name in task.metric_order if name in names]
  for metric in dict.fromkeys([*first, *names]):
    metrics[metric] = _metric(items, metric, bootstrap)
  return {
    'metrics': metrics,
    'groups': _groups(task, items, bootstrap),
    'composites': composites,
    'statuses': dict(sorted(statuses.items())),
    'cut_off': _share([answer.finish == 'length' for answer in answers]),
    'no_answer': _share([outcome.answer is None for outcome in outcomes]),
    'extras': dict(task.extras(items)),
  }


def metric_names(items: Sequence[Item]) -> list[str]:
  """Names of the metrics that the items have, in order."""
  names = dict.fromkeys(metric for item in items for metric in item.scores)
  return list(names)


def columns(items: Sequence[Item], parts: Sequence[Column]) -> tuple[np.ndarray, np.ndarray]:
  """Numerators and denominators [units, columns], summed within each resampled unit."""
  numbers: dict[str, int] = {}
  for item in items:
    numbers.setdefault(item.example.unit, len(numbers))
  num = np.zeros((len(numbers), len(parts)))
  den = np.zeros_like(num)
  for item in items:
    row = numbers[item.example.unit]
    for j, part in enumerate(parts):
      if part.metric in item.scores and _is_in_group(item, part):
        above, below = item.scores[part.metric]
        num[row, j] += above
        den[row, j] += below
  return num, den


def _is_in_group(item: Item, column: Column) -> bool:
  if column.group is None:
    return True
  key, value = column.group
  return item.example.groups.get(key) == value


def _metric(items: Sequence[Item], metric: str, bootstrap: Mapping) -> dict:
  """The estimate of one metric; with few samples for each problem, its interval resamples them too."""
  num, den = columns(items, [Column(metric)])
  out = _estimate(num, den, bootstrap)
  table = None
  if len(num) == len(items):
    table = _by_sample(items, metric)
  if table is not None:
    draws = stats.two_level(table[..., 0], table[..., 1], **bootstrap)
    out['low'], out['high'] = stats.percentile(draws)
    out = _widened(out)
  is_binary = np.all((num == 0) | (num == 1))
  if is_binary and np.all(den == 1):
    right = float(num.sum())
    out['wilson'] = list(wilson(right, len(num)))
  return out


def _by_sample(items: Sequence[Item], metric: str) -> np.ndarray | None:
  """Scores [problems, samples, 2] if every problem has the same small number of samples with a score, else None."""
  counts = {len(item.outcomes) for item in items}
  if len(counts) != 1:
    return None
  (samples,) = counts
  if not 1 < samples < TWO_LEVEL_BELOW:
    return None
  # pass@1, maj@1 and best@1 are accuracy by other names, and one number has one interval.
  drawn = 'accuracy' if metric.endswith('@1') else metric
  scores = [outcome.scores.get(drawn) for item in items for outcome in item.outcomes]
  if None in scores:
    return None
  return np.array(scores, float).reshape(len(items), samples, 2)


def _estimate(num: np.ndarray, den: np.ndarray, bootstrap: Mapping) -> dict:
  estimate = stats.estimate(num, den, **bootstrap)
  return _widened(dataclasses.asdict(estimate))


def _widened(estimate: dict) -> dict:
  """The estimate, with Wilson's interval over its problems if all resamples are equal: 0 of n is not exactly 0."""
  value = estimate['value']
  problems = estimate['problems']
  if value is None or not 0 <= value <= 1 or estimate['low'] != estimate['high']:
    return estimate
  low, high = wilson(value * problems, problems)
  return {**estimate, 'low': max(0.0, low), 'high': min(1.0, high)}


def _groups(task: Task, items: Sequence[Item], bootstrap: Mapping) -> dict:
  """group → value → metric → estimate; each value's interval resamples its problems only."""
  known = set(metric_names(items))
  metrics = [metric for metric in task.group_metrics if metric in known]
  if not metrics:
    return {}
  by_group: dict[str, dict[str, list[Item]]] = {}
  for item in items:
    for group, value in item.example.groups.items():
      by_value = by_group.setdefault(group, {})
      by_value.setdefault(value, []).append(item)
  table = {}
  for group, by_value in by_group.items():
    table[group] = {value: _group(by_value[value], metrics, bootstrap) for value in sorted(by_value)}
  return table


def _group(items: Sequence[Item], metrics: Sequence[str], bootstrap: Mapping) -> dict:
  return {metric: _estimate(*columns(items, [Column(metric)]), bootstrap) for metric in metrics}


def _share(flags: Sequence[bool]) -> float | None:
  if flags:
    return sum(flags) / len(flags)
  return None
