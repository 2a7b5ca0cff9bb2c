"""Charts of a benchmark: curves over samples, bars of groups."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from core.report.charts import curve, figure, plain, save

_SAMPLING = {'pass': 'pass@k', 'maj': 'maj@k', 'best': 'best-of-k'}


def sampling_curves(report: Mapping, folder: str) -> list[str]:
  """pass@k, maj@k and best-of-k over k with their intervals; none for a single sample."""
  curves = _curves(report['metrics'])
  if not curves:
    return []
  fig, axis = figure(6.5, 4.2)
  for kind, points in curves.items():
    mean = _percent(points.values(), 'value')
    low = _percent(points.values(), 'low')
    high = _percent(points.values(), 'high')
    curve(axis, list(points), mean, low=low, high=high, marker='o', label=_SAMPLING[kind])
  axis.set_xscale('log', base=2)
  ks = sorted(set().union(*curves.values()))
  axis.set_xticks(ks, list(map(str, ks)))
  axis.set_xlabel('samples k')
  axis.set_ylabel('% (shaded: 95 % interval over problems)')
  axis.set_ylim(0, 100)
  axis.grid(alpha=0.3)
  axis.legend()
  axis.set_title(plain(f'{report["task"]}: {report["model"]}'))
  return [save(fig, Path(folder) / 'curves.png')]


def _curves(metrics: Mapping[str, dict]) -> dict[str, dict[int, dict]]:
  """Kind of curve → k → estimate, from metrics such as pass@8."""
  curves: dict[str, dict[int, dict]] = {}
  for name, estimate in metrics.items():
    kind, at, k = name.partition('@')
    if at and kind in _SAMPLING and estimate['value'] is not None:
      curves.setdefault(kind, {})[int(k)] = estimate
  return curves


def _percent(estimates: Iterable[Mapping], key: str) -> list[float]:
  return [100 * estimate[key] for estimate in estimates]


def group_bars(title: str, groups: Mapping[str, Mapping], scale: float, path: Path, *, metric: str) -> str:
  """One bar of `metric` with its interval for each group of a table, in the table's order."""
  shown = {name: estimate for name, estimate in groups.items() if estimate['value'] is not None}
  labels = [plain(f'{name[:40]} ({estimate["problems"]})') for name, estimate in shown.items()]
  values = [scale * estimate['value'] for estimate in shown.values()]
  highs = [scale * estimate['high'] for estimate in shown.values()]
  below = [max(0.0, scale * (estimate['value'] - estimate['low'])) for estimate in shown.values()]
  above = [max(0.0, high - value) for high, value in zip(highs, values)]
  fig, axis = figure(7.5, 0.36 * len(shown) + 1.3)
  places = list(reversed(range(len(shown))))
  axis.barh(places, values, xerr=[below, above], ecolor='0.3', capsize=2)
  axis.set_yticks(places, labels)
  axis.set_ylim(-0.7, len(shown) - 0.3)
  axis.set_xlim(left=0, right=max(100.0, *values, *highs))
  unit = ', %' if scale == 100 else ''
  axis.set_xlabel(plain(f'{metric}{unit} (lines: 95 % interval; in brackets: problems)'))
  axis.set_title(plain(title))
  axis.grid(axis='x', alpha=0.3)
  return save(fig, path)
