"""What runs leave for people: pages, charts, intervals."""

from core.report.charts import curve, data_uri, figure, level, picture_uri, plain, png, save, stacked
from core.report.intervals import pass_at_k, wilson
from core.report.pages import chart, page, render, table

__all__ = [
  'chart',
  'curve',
  'data_uri',
  'figure',
  'level',
  'page',
  'pass_at_k',
  'picture_uri',
  'plain',
  'png',
  'render',
  'save',
  'stacked',
  'table',
  'wilson',
]
