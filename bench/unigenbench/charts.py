"""The radar of the ten primary dimensions and the bars of the 27 sub-criteria."""

import math
from collections.abc import Mapping
from pathlib import Path

from bench.report.charts import interval_bars
from bench.unigenbench.taxonomy import PRIMARIES, TEST_POINTS
from core.report.charts import figure, save


def draw(report: Mapping, folder: str) -> list[str]:
  """Writes radar.png and dimensions.png into `folder`; their names."""
  metrics = report['metrics']
  values = {name: estimate for name, estimate in metrics.items() if estimate['value'] is not None}
  names = []
  if values.keys() >= set(PRIMARIES):
    percent = {}
    for name in PRIMARIES:
      percent[name] = 100 * values[name]['value']
    names.append(_radar(percent, report['model'], folder))
  points = [point for point in TEST_POINTS if point.en in values]
  if points:
    names.append(_bars(points, values, folder))
  return names


def _radar(values: Mapping[str, float], model: str, folder: str) -> str:
  fig, axis = figure(6.5, 6.0, polar=True)
  step = 2 * math.pi / len(values)
  angles = [step * place for place in range(len(values))]
  heights = list(values.values())
  around = [*angles, angles[0]]  # the first point again closes the line
  heights.append(heights[0])
  axis.plot(around, heights, linewidth=2)
  axis.fill(around, heights, alpha=0.2)
  axis.set_theta_offset(math.pi / 2)
  axis.set_theta_direction(-1)
  labels = [f'{name}\n{value:.1f}' for name, value in values.items()]
  axis.set_xticks(angles, labels)
  for label, angle in zip(axis.get_xticklabels(), angles):
    label.set_horizontalalignment(_alignment(angle))
  axis.set_ylim(0, 100)
  axis.set_yticks([25, 50, 75], ['25', '50', '75'], color='0.4', size=8)
  axis.set_rlabel_position(18)
  axis.set_title(f'{model}: primary dimensions, %', pad=28)
  path = Path(folder) / 'radar.png'
  return save(fig, path)


def _alignment(angle: float) -> str:
  """The alignment that keeps a label outside the circle."""
  side = round(math.sin(angle), 6)
  if side == 0:
    return 'center'
  if side > 0:
    return 'left'
  return 'right'


def _bars(points, values: Mapping, folder: str) -> str:
  """One bar for each sub-criterion, in the colour of its dimension."""
  colour_of = {}
  for place, name in enumerate(PRIMARIES):
    colour_of[name] = f'C{place}'
  labels = [point.en for point in points]
  estimates = [values[label] for label in labels]
  colours = [colour_of[point.primary] for point in points]
  height = 0.34 * len(points) + 1.4
  fig, axis = figure(9.0, height)
  interval_bars(axis, labels, estimates, scale=100, color=colours)
  axis.set_xlim(0, 100)
  axis.set_xlabel('fulfilled, % (bars: 95 % interval over prompts)')
  path = Path(folder) / 'dimensions.png'
  return save(fig, path)
