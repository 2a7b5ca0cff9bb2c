"""Charts of a benchmark: curves over samples, bars of groups."""

from collections.abc import Mapping
from pathlib import Path

from core.report.charts import curve, figure, plain, save

_SAMPLING = {'pass': 'pass@k', 'maj': 'maj@k', 'best': 'best-of-k'}


def sampling_curves(report: Mapping, folder: str) -> list[str]:
  """pass@k, maj@k and best-of-k over k with their intervals; none for a single sample."""
  curves: dict[str, list[tuple[int, dict]]] = {}
  for name, estimate in report['metrics'].items():
    kind, at, k = name.partition('@')
    if at and kind in _SAMPLING and estimate['value'] is not None:
      curves.setdefault(kind, []).append((int(k), estimate))
  if not curves:
    return []
  fig, axis = figure(6.5, 4.2)
  for kind, points in curves.items():
    ks = [k for k, _ in points]
    mean, low, high = ([100 * e[key] for _, e in points] for key in ('value', 'low', 'high'))
    curve(axis, ks, mean, low=low, high=high, marker='o', label=_SAMPLING[kind])
  axis.set_xscale('log', base=2)
  ks = sorted({k for points in curves.values() for k, _ in points})
  axis.set_xticks(ks, [str(k) for k in ks])
  axis.set_xlabel('samples k')
  axis.set_ylabel('% (shaded: 95 % interval over problems)')
  axis.set_ylim(0, 100)
  axis.grid(alpha=0.3)
  axis.legend()
  axis.set_title(plain(f'{report["task"]}: {report["model"]}'))
  return [save(fig, Path(folder) / 'curves.png')]


def group_bars(title: str, groups: Mapping[str, Mapping], scale: float, path: Path, *, metric: str) -> str:
  """One bar of `metric` with its interval for each group of a table, in the table's order."""
  rows = [(name, e) for name, e in groups.items() if e['value'] is not None]
  fig, axis = figure(7.5, 0.36 * len(rows) + 1.3)
  places = list(range(len(rows)))[::-1]
  values = [scale * e['value'] for _, e in rows]
  low = [max(0.0, v - scale * e['low']) for v, (_, e) in zip(values, rows)]
  high = [max(0.0, scale * e['high'] - v) for v, (_, e) in zip(values, rows)]
  axis.barh(places, values, xerr=[low, high], ecolor='0.3', capsize=2)
  axis.set_yticks(places, [plain(f'{name[:40]} ({e["problems"]})') for name, e in rows])
  axis.set_ylim(-0.7, len(rows) - 0.3)
  axis.set_xlim(left=0, right=max(100.0, *values, *(scale * e['high'] for _, e in rows)))
  axis.set_xlabel(plain(f'{metric}{", %" if scale == 100 else ""} (lines: 95 % interval; in brackets: problems)'))
  axis.set_title(plain(title))
  axis.grid(axis='x', alpha=0.3)
  return save(fig, path)
