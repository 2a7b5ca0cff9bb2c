"""Charts of a benchmark: curves over samples, bars of groups."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from core.report.charts import curve, figure, plain, save

_SAMPLING = {'pass': 'pass@k', 'maj': 'maj@k', 'best': 'best-of-k'}


def sampling_curves(report: Mapping, folder: str) -> list[str]:
  """pass@k, maj@k and best-of-k over k with their intervals; none for a single sample."""
  curves = _curves(report['metrics'])
  if not curves:
    return []
  fig, axis = figure(6.5, 4.2)
  ks = set()
  for kind, points in curves.items():
    ks.update(points)
    _draw_curve(axis, points, label=_SAMPLING[kind])
  _label_samples(axis, sorted(ks))
  axis.set_ylabel('% (shaded: 95 % interval over problems)')
  axis.set_ylim(0, 100)
  axis.grid(alpha=0.3)
  axis.legend()
  title = f'{report["task"]}: {report["model"]}'
  axis.set_title(plain(title))
  path = Path(folder) / 'curves.png'
  return [save(fig, path)]


def _draw_curve(axis, points: Mapping[int, Mapping], *, label: str) -> None:
  """A metric over k, in percent, with its interval."""
  estimates = points.values()
  curve(
    axis,
    list(points),
    _scaled(estimates, 'value', 100),
    low=_scaled(estimates, 'low', 100),
    high=_scaled(estimates, 'high', 100),
    marker='o',
    label=label,
  )


def _label_samples(axis, ks: Sequence[int]) -> None:
  """A logarithmic axis of samples with a tick at each k."""
  axis.set_xscale('log', base=2)
  labels = [str(k) for k in ks]
  axis.set_xticks(ks, labels)
  axis.set_xlabel('samples k')


def _curves(metrics: Mapping[str, dict]) -> dict[str, dict[int, dict]]:
  """Kind of curve → k → estimate, from metrics such as pass@8."""
  curves: dict[str, dict[int, dict]] = {}
  for name, estimate in metrics.items():
    kind, at, k = name.partition('@')
    if at and kind in _SAMPLING and estimate['value'] is not None:
      curves.setdefault(kind, {})[int(k)] = estimate
  return curves


def _scaled(estimates: Iterable[Mapping], key: str, scale: float) -> list[float]:
  return [scale * estimate[key] for estimate in estimates]


def interval_bars(axis, labels: Sequence[str], estimates: Sequence[Mapping], *, scale: float, **style) -> float:
  """Horizontal bars from top to bottom with their intervals; the largest value drawn.

  Estimates have `value`, `low` and `high`; `scale` is 100 for percent.
  """
  values = _scaled(estimates, 'value', scale)
  lows = _scaled(estimates, 'low', scale)
  highs = _scaled(estimates, 'high', scale)
  below = []
  above = []
  for value, low, high in zip(values, lows, highs):
    below.append(max(0.0, value - low))
    above.append(max(0.0, high - value))
  count = len(labels)
  rows = list(range(count))
  rows.reverse()
  axis.barh(rows, values, xerr=[below, above], ecolor='0.3', capsize=2, **style)
  axis.set_yticks(rows, labels)
  axis.set_ylim(-0.7, count - 0.3)
  axis.grid(axis='x', alpha=0.3)
  return max([*values, *highs], default=0.0)


def group_bars(title: str, groups: Mapping[str, Mapping], scale: float, path: Path, *, metric: str) -> str:
  """One bar of `metric` with its interval for each group of a table, in the table's order."""
  labels = []
  estimates = []
  for name, estimate in groups.items():
    if estimate['value'] is not None:
      label = f'{name[:40]} ({estimate["problems"]})'
      labels.append(plain(label))
      estimates.append(estimate)
  height = 0.36 * len(labels) + 1.3
  fig, axis = figure(7.5, height)
  largest = interval_bars(axis, labels, estimates, scale=scale)
  axis.set_xlim(left=0, right=max(100.0, largest))
  unit = ', %' if scale == 100 else ''
  meaning = f'{metric}{unit} (lines: 95 % interval; in brackets: problems)'
  axis.set_xlabel(plain(meaning))
  axis.set_title(plain(title))
  return save(fig, path)
