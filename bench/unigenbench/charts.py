"""The radar of the ten primary dimensions and the bars of the 27 sub-criteria."""

import math
from collections.abc import Mapping
from pathlib import Path

from bench.unigenbench.taxonomy import PRIMARIES, TEST_POINTS
from core.report.charts import figure, save


def draw(report: Mapping, folder: str) -> list[str]:
  """Writes radar.png and dimensions.png into `folder`; their names."""
  metrics = report['metrics']
  values = {name: estimate for name, estimate in metrics.items() if estimate['value'] is not None}
  names = []
  if all(name in values for name in PRIMARIES):
    percent = {name: 100 * values[name]['value'] for name in PRIMARIES}
    names.append(_radar(percent, report['model'], folder))
  points = [point for point in TEST_POINTS if point.en in values]
  if points:
    names.append(_bars(points, values, folder))
  return names


def _radar(values: Mapping[str, float], model: str, folder: str) -> str:
  fig, axis = figure(6.5, 6.0, polar=True)
  angles = [2 * math.pi * i / len(values) for i in range(len(values))]
  heights = list(values.values())
  around = [*angles, angles[0]]  # the first point again closes the line
  heights.append(heights[0])
  axis.plot(around, heights, linewidth=2)
  axis.fill(around, heights, alpha=0.2)
  axis.set_theta_offset(math.pi / 2)
  axis.set_theta_direction(-1)
  axis.set_xticks(angles, [f'{name}\n{value:.1f}' for name, value in values.items()])
  for label, angle in zip(axis.get_xticklabels(), angles):
    label.set_horizontalalignment(_alignment(angle))
  axis.set_ylim(0, 100)
  axis.set_yticks([25, 50, 75], ['25', '50', '75'], color='0.4', size=8)
  axis.set_rlabel_position(18)
  axis.set_title(f'{model}: primary dimensions, %', pad=28)
  return save(fig, Path(folder) / 'radar.png')


def _alignment(angle: float) -> str:
  """The alignment that keeps a label outside the circle."""
  side = round(math.sin(angle), 6)
  if side == 0:
    return 'center'
  if side > 0:
    return 'left'
  return 'right'


def _bars(points, values: Mapping, folder: str) -> str:
  fig, axis = figure(9.0, 0.34 * len(points) + 1.4)
  colours = {name: f'C{i}' for i, name in enumerate(PRIMARIES)}
  rows = list(reversed(range(len(points))))
  estimates = [values[point.en] for point in points]
  heights = [100 * estimate['value'] for estimate in estimates]
  below = [max(0.0, 100 * (estimate['value'] - estimate['low'])) for estimate in estimates]
  above = [max(0.0, 100 * (estimate['high'] - estimate['value'])) for estimate in estimates]
  color = [colours[point.primary] for point in points]
  axis.barh(rows, heights, xerr=[below, above], color=color, ecolor='0.3', capsize=2)
  axis.set_yticks(rows, [point.en for point in points])
  axis.set_xlim(0, 100)
  axis.set_ylim(-0.7, len(rows) - 0.3)
  axis.set_xlabel('fulfilled, % (bars: 95 % interval over prompts)')
  axis.grid(axis='x', alpha=0.3)
  return save(fig, Path(folder) / 'dimensions.png')
