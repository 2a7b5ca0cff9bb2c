"""HTML pages: one style, every inserted value escaped, nothing fetched from elsewhere, readable on a phone."""

import functools
from collections.abc import Iterable, Sequence
from typing import Any

import jinja2
from markupsafe import Markup

_STYLE = """
  :root { --line: #8884; --soft: #8881; --good: #18803a; --bad: #c62828; --muted: #777; color-scheme: light dark; }
  body { font: 16px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2rem auto; padding: 0 1rem; }
  h1 { font-size: 1.5rem; overflow-wrap: anywhere; } h2 { font-size: 1.15rem; margin-top: 2rem; }
  h3 { font-size: 1rem; margin-bottom: 0; }
  .scroll { overflow-x: auto; }
  table { border-collapse: collapse; margin: .5rem 0 1rem; }
  th, td { border-bottom: 1px solid var(--line); padding: .25rem .7rem; text-align: left; vertical-align: top; }
  td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; }
  td.n { white-space: nowrap; }
  .words td + td { overflow-wrap: anywhere; }
  @media (max-width: 40rem) { th, td { padding: .25rem .3rem; } td.n { white-space: normal; } }
  pre { white-space: pre-wrap; overflow-wrap: anywhere; background: var(--soft); padding: .6rem;
        max-height: 24rem; overflow: auto; }
  img { max-width: 100%; height: auto; } img.chart { background: #fff; }
  @media (max-width: 40rem) { .scroll > img.chart { max-width: none; width: 36rem; } }
  img.shown { height: 7rem; width: auto; image-rendering: pixelated; vertical-align: middle; }
  details { margin: .3rem 0; } summary { cursor: pointer; overflow-wrap: anywhere; }
  .grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(13rem, 100%), 1fr)); gap: 1rem; }
  .images { display: flex; flex-wrap: wrap; gap: 1rem; } .images figure { width: 256px; }
  figure { margin: 0; } figure.card { padding: .7rem; border: 1px solid var(--line); border-radius: 8px; }
  figure.card img { width: 100%; image-rendering: pixelated; }
  figcaption { font-size: .85rem; } ul { padding-left: 1.1rem; margin: .2rem 0; }
  .prompt { border-top: 1px solid var(--line); padding: .5rem 0 1rem; }
  .yes b, .right { color: var(--good); } .no b, .wrong { color: var(--bad); } .none b { color: var(--muted); }
"""

_PAGE = """\
<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{{ title }}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>{{ style }}</style></head><body><h1>{{ title }}</h1>
{{ body }}
</body></html>
"""

_TABLE = """\
<div class="scroll"><table{% if not numeric %} class="words"{% endif %}>
<tr>{% for cell in head %}<th class="{{ 'n' if loop.index0 in numeric }}">{{ cell }}</th>{% endfor %}</tr>
{% for row in rows %}<tr>{% for cell in row -%}
<td class="{{ 'n' if loop.index0 in numeric }}">{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</table></div>"""

_CHART = """<div class="scroll"><img class="chart" alt="{{ alt }}" src="{{ source }}"></div>"""


@functools.cache
def _environment() -> jinja2.Environment:
  return jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)


def render(template: str, **values: Any) -> Markup:
  """A Jinja template with every value escaped, as HTML that is not escaped again. A missing value raises."""
  return Markup(_environment().from_string(template).render(**values))


def page(title: str, body: str, **values: Any) -> str:
  """A whole page from a Jinja template of its body; every value is escaped."""
  return _environment().from_string(_PAGE).render(title=title, style=Markup(_STYLE), body=render(body, **values))


def table(head: Sequence[Any], rows: Iterable[Sequence[Any]], *, text: Iterable[int] = (0,)) -> Markup:
  """A table that scrolls sideways where it is wider than the screen; the columns `text` are not numbers.

  If none is, long words break.
  """
  rows = list(rows)
  numeric = set(range(len(head))) - set(text)
  return render(_TABLE, head=head, rows=rows, numeric=numeric)


def chart(source: str, alt: str) -> Markup:
  """A picture by its data URI or by the name of a file next to the page; on a phone it scrolls, at a size to read."""
  return render(_CHART, source=source, alt=alt)
