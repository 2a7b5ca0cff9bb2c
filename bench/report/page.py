"""The report of a run: JSON, Markdown, a page, and charts."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.harness.store import write_text
from bench.harness.task import Item, Task
from bench.report import charts
from core.report import pages

MOST_ITEMS = 1_000
MOST_CHARS = 4_000
QUESTIONS = ('question', 'problem', 'prompt', 'instruction', 'expression')  # fields that hold what is asked
GOLDS = ('gold', 'golds', 'final_answer', 'answer', 'accepted', 'answers', 'box', 'text')  # and the right answer

_BODY = """\
<p>{{ headline }}</p>
{% for picture in charts %}{{ picture }}{% endfor %}
{% if gallery %}<p><a href="{{ gallery }}">Images and verdicts</a></p>{% endif %}
{% for title, table in tables %}
<h2>{{ title }}</h2>
{{ table }}
{% endfor %}
{% if wording %}<h2>Prompt</h2>
<p>Said with every question, as its kind needs it:</p><pre>{{ wording }}</pre>{% endif %}
<h2>Answers</h2>
<p>{{ shown|length }} of {{ total }} examples; long texts are cut here, whole in results.jsonl.</p>
{% for item in shown %}
<details><summary>{{ item.id }} · {{ item.line }}</summary>
<pre>{{ item.question }}</pre><p>right answer: {{ item.gold }}</p>
{% for sample in item.samples %}
<p>{{ sample.status }} · answer: {{ sample.answer }} · {{ sample.scores }}</p>
{% if sample.reasoning %}<pre>{{ sample.reasoning }}</pre>{% endif %}<pre>{{ sample.text }}</pre>
{% endfor %}</details>
{% endfor %}"""


def write(task: Task, report: dict, items: Sequence[Item], folder: Path) -> dict:
  """Writes report.json, .md and .html, the charts and the task's gallery; the report as JSON has it."""
  report = json.loads(json.dumps(report, allow_nan=False))
  drawn = [
    charts.group_bars(
      f'{report["task"]}: {_charted(task)} by {key}',
      _primary(task, values),
      _scale(report),
      folder / f'by_{re.sub("[^a-z0-9]+", "_", key.lower())}.png',
      metric=_charted(task),
    )
    for key, values in _chartable(task, report)
  ]
  if task.charts:
    drawn = [*task.charts(report, str(folder)), *drawn]
  gallery = None
  if task.gallery:
    gallery = task.gallery(items, str(folder))
  tables = _tables(report)
  title = f'{report["task"]}: {report["model"]}'
  write_text(folder / 'report.json', _pretty(report))
  write_text(folder / 'report.md', _markdown(title, _headline(report), tables, drawn, gallery))
  shown = [_shown(item) for item in items[:MOST_ITEMS]]
  write_text(
    folder / 'report.html',
    pages.page(
      title,
      _BODY,
      headline=_headline(report),
      charts=[pages.chart(name, name) for name in drawn],
      gallery=gallery,
      wording=_short(task.template),
      tables=[(t['title'], pages.table(t['head'], t['rows'], text=t.get('text', (0,)))) for t in tables],
      shown=shown,
      total=len(items),
    ),
  )
  return report


def _pretty(report: Mapping) -> str:
  return json.dumps(report, ensure_ascii=False, allow_nan=False, indent=1) + '\n'


def _scale(report: Mapping) -> float:
  if report['percent']:
    return 100.0
  return 1.0


def _charted(task: Task) -> str | None:
  """The metric that group charts show."""
  if task.primary in task.group_metrics:
    return task.primary
  return next(iter(task.group_metrics), None)


def _chartable(task: Task, report: Mapping) -> list[tuple[str, Mapping]]:
  groups = ()
  if _charted(task):
    groups = report['groups'].items()
  return [(key, values) for key, values in groups if 1 < len(values) <= 40]


def _primary(task: Task, values: Mapping) -> dict:
  return {name: metrics[_charted(task)] for name, metrics in values.items()}


def number(estimate: Mapping, scale: float) -> str:
  """“41.20 [33.10, 49.50]”, or a dash where nothing was counted."""
  if estimate['value'] is None:
    return '–'
  low, high = ('–' if e is None else _fixed(scale * e) for e in (estimate['low'], estimate['high']))
  return f'{_fixed(scale * estimate["value"])} [{low}, {high}]'


def _fixed(value: float) -> str:
  """Two decimals, and no minus before a zero."""
  return f'{round(value, 2) + 0.0:.2f}'


def scale_of(metric: str, report: Mapping) -> float:
  """SEED points are printed as they are, every share as a percentage."""
  if metric == report['primary'] and not report['percent']:
    return 1.0
  return 100.0


def _headline(report: Mapping) -> str:
  data = report['data']
  primary = report['primary']
  best = report['metrics'].get(primary)
  why_not = report['extras'].get(f'no {primary}', 'not counted')
  value = why_not
  if best:
    value = f'{number(best, scale_of(primary, report))} (95 % interval)'
  failed = report['statuses'].get('request_failed', 0)
  return (
    f'{primary}: {value}. {data["read"]} rows read, {len(data["skipped"])} skipped, '
    f'{len(data["repaired"])} repaired, {data["examples"]} examples scored'
    + (f'; {failed} answers are missing and were scored as empty ones' if failed else '')
    + '.'
  )


def _tables(report: Mapping) -> list[dict]:
  metrics = report['metrics']
  tables = [
    {
      'title': 'Metrics',
      'head': ['metric', 'value [95 %]', 'problems'],
      'rows': [[m, number(e, scale_of(m, report)), e['problems']] for m, e in metrics.items()],
    }
  ]
  for key, values in report['groups'].items():
    names = list(next(iter(values.values())))
    tables.append(
      {
        'title': f'By {key}',
        'head': [key, 'problems', *names],
        'rows': [
          [value, row[names[0]]['problems'], *(number(row[m], scale_of(m, report)) for m in names)]
          for value, row in values.items()
        ],
      }
    )
  reasons: dict[str, int] = {}
  for kind in ('skipped', 'repaired'):
    for problem in report['data'][kind]:
      reasons[f'{kind}: {problem["reason"]}'] = reasons.get(f'{kind}: {problem["reason"]}', 0) + 1
  tables.append({'title': 'Answers by status', 'head': ['status', 'answers'], 'rows': list(report['statuses'].items())})
  if reasons:
    tables.append({'title': 'Rows', 'head': ['what', 'rows'], 'rows': list(reasons.items())})
  simple = {k: v for k, v in report['extras'].items() if not isinstance(v, (dict, list))}
  settings = {
    'data': ', '.join(report['data']['files']),
    **_flat(report['generation']),
    **_flat(report['scorer']),
    'prompt hash': report['prompt_hash'],
    'settings hash': report['settings_hash'],
    'share cut off': report['cut_off'],
    'share without an answer': report['no_answer'],
    **simple,
    'resamples': report['bootstrap']['resamples'],
    'seconds': report['seconds'],
  }
  rows = [[k, str(v)] for k, v in settings.items()]
  tables.append({'title': 'Settings', 'head': ['setting', 'value'], 'rows': rows, 'text': (0, 1)})
  return tables


def _flat(values: Mapping) -> dict:
  return {k: v for k, v in values.items() if not isinstance(v, dict)}


def _markdown(title: str, headline: str, tables, drawn, gallery) -> str:
  lines = [f'# {_cell(title)}', '', headline, '']
  lines += [f'![{name}]({name})' for name in drawn]
  lines += [f'[Images and verdicts]({gallery})'] if gallery else []
  for table in tables:
    lines += [
      '',
      f'## {_cell(table["title"])}',
      '',
      '| ' + ' | '.join(map(_cell, table['head'])) + ' |',
      '|' + '---|' * len(table['head']),
    ]
    lines += ['| ' + ' | '.join(map(_cell, row)) + ' |' for row in table['rows']]
  return '\n'.join(lines) + '\n'


def _cell(value) -> str:
  """Text that cannot leave its table cell."""
  return re.sub(r'\s+', ' ', str(value)).replace('\\', '\\\\').replace('|', '\\|').replace('<', '&lt;')


def _shown(item: Item) -> dict:
  samples = [
    {
      'status': o.status,
      'answer': _short(o.answer),
      'reasoning': _short(a.reasoning),
      'text': _short(a.text),
      'scores': _ratios(o.scores),
    }
    for a, o in zip(item.answers, item.outcomes)
  ]
  return {
    'id': item.example.id,
    'line': _ratios(item.scores),
    'question': _short(_field(item, QUESTIONS)),
    'gold': _short(_field(item, GOLDS)),
    'samples': samples,
  }


def _ratios(scores: Mapping) -> str:
  first = list(scores.items())[:4]
  ratios = [f'{name} {above / below:.3g}' for name, (above, below) in first if below]
  return ', '.join(ratios)


def _field(item: Item, names: Sequence[str]) -> str | None:
  """The first of these fields that the example has, as text."""
  fields = item.example.fields
  value = next((fields[name] for name in names if fields.get(name) is not None), None)
  if value is None:
    return None
  return str(value)


def _short(text: str | None) -> str:
  if text is None:
    return 'none'
  if len(text) <= MOST_CHARS:
    return text
  return f'{text[:MOST_CHARS]} … ({len(text)} characters)'
