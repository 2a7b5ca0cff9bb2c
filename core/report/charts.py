"""Charts by matplotlib, without a display: figures, curves with intervals, files and data URIs."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path

DPI = 130
SOFT, STRONG, GREY, GREEN = '#9db8d9', '#1f4e8c', '#888888', '#0a7d33'


def figure(width: float, height: float, *, polar: bool = False):
  """A figure of that size in inches and its only axis."""
  fig, (axis,) = stacked(width, height, 1, polar=polar)
  return fig, axis


def stacked(width: float, height: float, n: int, *, ratios: Sequence[float] | None = None, polar: bool = False):
  """A figure of that size in inches and its n axes, one above the other with the same x."""
  from matplotlib.backends.backend_agg import FigureCanvasAgg
  from matplotlib.figure import Figure

  fig = Figure(figsize=(width, height), layout='constrained')
  FigureCanvasAgg(fig)
  projection = {'projection': 'polar'} if polar else {}
  axes = fig.subplots(n, 1, sharex=True, squeeze=False, height_ratios=ratios, subplot_kw=projection)
  return fig, list(axes[:, 0])


def curve(axis, x: Sequence[float], y: Sequence[float], *, label: str, low=None, high=None, **style):
  """A line, with the band from `low` to `high` shaded around it where they are given."""
  (line,) = axis.plot(x, y, label=label, **style)
  if low is not None:
    axis.fill_between(x, low, high, color=line.get_color(), alpha=0.15)
  return line


def level(axis, value: float, interval: tuple[float, float], *, label: str, color: str) -> None:
  """A horizontal line with its interval shaded."""
  axis.axhspan(*interval, color=color, alpha=0.15)
  axis.axhline(value, color=color, lw=1, ls='--', label=label)


def plain(text: str) -> str:
  """A text in which matplotlib sees no formula: a dollar sign would start one, and names come from files."""
  return text.replace('$', r'\$')


def png(fig) -> bytes:
  """The figure as a PNG. No time stamp goes in, so equal charts are equal files."""
  buffer = io.BytesIO()
  fig.savefig(buffer, format='png', dpi=DPI, bbox_inches='tight', metadata={'Software': None})
  return buffer.getvalue()


def save(fig, path: Path) -> str:
  """Writes the figure; the file's name."""
  path.write_bytes(png(fig))
  return path.name


def data_uri(png_bytes: bytes) -> str:
  """A PNG as text that an `img` takes as its source."""
  return 'data:image/png;base64,' + base64.b64encode(png_bytes).decode()


def picture_uri(image) -> str:
  """A PIL image as a data URI."""
  buffer = io.BytesIO()
  image.save(buffer, format='PNG')
  return data_uri(buffer.getvalue())
