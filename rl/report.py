"""What a run leaves: its weights as a checkpoint folder, results.json, the reward curve and a page of responses."""

import dataclasses
import json
import math
import pathlib
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax

from core import mesh
from core import params as params_lib
from core.report import charts, pages
from core.report.intervals import wilson
from core.training.record import replace
from rl.evaluate import Result
from rl.policy import Policy
from rl.query import Query

PICTURES = 8  # images written as files
MOST_KINDS = 12  # questions that are counted one by one
# Metric, its unit, and what the legend calls it.
CURVES = (('response_length', 'tokens', 'length of a response'), ('entropy', 'nats', 'entropy of a token'))
BODY = """
{{ run }}{{ table }}{{ kinds }}{{ chart }}
{% for name, r in results %}<h2>Responses {{ name }} reinforcement learning</h2>
{% for i in range([shown, r.right | length] | min) %}
<details class="{{ 'yes' if r.right[i] == 1 else 'no' }}" {{ 'open' if i < 2 }}><summary>
{% for uri in images(r.queries[i]) %}<img src="{{ uri }}" alt="an image of the question" class="shown"> {% endfor %}
{{ question(r.queries[i]) }}
{% for uri in drawn(r.responses[i]) %}<img src="{{ uri }}" alt="an image of the response" class="shown"> {% endfor %}
<b>{{ answer(r.responses[i]) or 'no answer' }}</b>
{%- if r.queries[i].answer %}, expected {{ r.queries[i].answer }}{% endif %}</summary>
{% for title, text in sections(r.responses[i]) %}<h3>{{ title }}</h3><pre>{{ text }}</pre>{% endfor %}
</details>{% endfor %}{% endfor %}
"""


def _itself(response: Any) -> str:
  return str(response)


def _no_pictures(response: Any) -> Sequence[Any]:
  return ()


def _one_section(response: Any) -> list[tuple[str, str]]:
  return [('response', str(response))]


@dataclasses.dataclass(frozen=True)
class Page:
  """How the page shows responses.

  answer(response): the short text of one. pictures(response): its images. sections(response): its titled parts. panel:
  metrics drawn below the reward, by name. shown: responses before and after.
  """

  title: str = 'A policy that learned from reward'
  answer: Callable[[Any], str] = _itself
  pictures: Callable[[Any], Sequence[Any]] = _no_pictures
  sections: Callable[[Any], Sequence[tuple[str, str]]] = _one_section
  panel: tuple[tuple[str, str], ...] = ()
  panel_label: str = ''
  shown: int = 36


@dataclasses.dataclass(frozen=True)
class Outcome:
  """What a run ends with. before, after: held-out responses before and after reinforcement.

  glance: number of held-out queries while it trained, the first of those before and after.
  """

  policy: Policy
  weights: Any
  before: Result
  after: Result
  seed: int = 0
  glance: int = 0

  @property
  def results(self) -> dict:
    """The contents of results.json."""
    parameters = params_lib.count(self.policy.spec())
    summaries = {'before': self.before.summary(), 'after': self.after.summary()}
    return {'seed': self.seed, 'parameters': parameters} | summaries


def finish(outcome: Outcome, workdir: pathlib.Path, place: mesh.Mesh, *, dtype: str, page: Page) -> None:
  """Writes the policy to model/, and the results and the page; says what the run reached."""
  with jax.set_mesh(place):
    outcome.policy.save(workdir / 'model', params_lib.cast(outcome.weights, dtype))
  if jax.process_index() == 0:
    replace(workdir / 'results.json', json.dumps(outcome.results, indent=2) + '\n')
    write(workdir, outcome.before, outcome.after, page, glance=outcome.glance, run=_run(outcome))
  for name, result in (('before', outcome.before), ('after', outcome.after)):
    print(f'held-out {result.measure} {name} reinforcement learning: {result}')
  print(f'report: {workdir / "report.html"}')


def _run(outcome: Outcome) -> list[tuple[str, str]]:
  """What was trained, by which command, and what it cost: names and values."""
  hours, seconds = divmod(round(time.process_time()), 3600)
  return [
    ('weights', f'{params_lib.count(outcome.policy.spec()):,}'),
    ('seed', str(outcome.seed)),
    ('command', shlex.join([pathlib.Path(sys.executable).name, *sys.orig_argv[1:]])),
    ('devices', f'{jax.device_count()} × {jax.devices()[0].device_kind}'),
    ('processor time since the last start', f'{hours}:{seconds // 60:02}:{seconds % 60:02}'),
  ]


def curve(workdir: pathlib.Path) -> list[dict]:
  """The lines of metrics.jsonl."""
  return [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text(encoding='utf-8').splitlines()]


def plot(workdir: pathlib.Path, before: Result, after: Result, page: Page = Page(), *, glance: int = 0) -> bytes:
  """Writes reward.png and returns it: training reward and held-out accuracy by rollout, below them other metrics.

  Those are `page.panel`, and the length and the entropy of responses where they were recorded.
  """
  lines = curve(workdir)
  steps = [m['step'] for m in lines]
  panels = []
  if page.panel:
    panels = [(page.panel, page.panel_label)]
  panels += [(((key, name),), unit) for key, unit, name in CURVES if any(key in m for m in lines)]
  ratios = (5, *[2] * len(panels))
  fig, axes = charts.stacked(8, 4.0 + 1.6 * len(panels), len(ratios), ratios=ratios)
  _rewards(axes[0], lines, before, after, glance or len(before.right))
  for axis, (curves, label) in zip(axes[1:], panels):
    for key, name in curves:
      charts.curve(axis, steps, [m.get(key, math.nan) for m in lines], label=name, lw=1)
    axis.set(ylabel=label, ylim=(0, None))
  for axis in axes:
    axis.grid(alpha=0.2)
    if axis.get_legend_handles_labels()[0]:
      axis.legend(frameon=False)
  axes[-1].set(xlabel='rollout', xlim=(0, max(steps, default=1)))
  charts.save(fig, workdir / 'reward.png')
  return charts.png(fig)


def _rewards(axis: Any, lines: Sequence[dict], before: Result, after: Result, glance: int) -> None:
  """Training reward, and held-out accuracy: every point of its curve is of the same `glance` queries."""
  steps = [m['step'] for m in lines]
  rewards = [m['reward'] for m in lines]
  charts.curve(axis, steps, rewards, label='training reward', color=charts.SOFT, lw=1)
  key = f'heldout_{before.measure}'
  first = dataclasses.replace(before, right=before.right[:glance])
  seen = [(0, first.accuracy), *((m['step'], m[key]) for m in lines if key in m)]
  label = f'held-out {before.measure}, {len(first.right)} questions'
  charts.curve(axis, *zip(*seen), label=label, color=charts.STRONG, marker='o', ms=4)
  for result, colour, name in ((before, charts.GREY, 'before'), (after, charts.GREEN, 'after')):
    label = f'{name}: {result.accuracy:.3f} of {len(result.right)}'
    charts.level(axis, result.accuracy, result.interval, label=label, color=colour)
  axis.set(ylabel=before.measure)
  if before.measure == 'accuracy':
    axis.set(ylim=(0, 1))


def _picture(image: Any) -> Any:
  """An image of a query, which may be a path."""
  from PIL import Image

  if isinstance(image, Image.Image):
    return image
  return Image.open(image)


def _data_uris(query: Query) -> list[str]:
  return [charts.picture_uri(_picture(image)) for image in query.images]


def _question(query: Query) -> str:
  asked = query.messages[-1]['content']
  parts = [asked] if isinstance(asked, str) else [part.get('text', '') for part in asked]
  return ' '.join(parts).replace('<image>', '').strip()


def _passes(result: Result) -> str:
  rates = {k: v for k, v in result.summary().items() if k.startswith('pass@')}
  return ', '.join(f'{k}: {100 * v:.1f} %' for k, v in rates.items())


def _table(results: Sequence[tuple[str, Result]]) -> str:
  head = ['reinforcement learning', f'held-out {results[0][1].measure}', '95 % interval', 'questions']
  rows = [[name, f'{r.accuracy:.3f}', '{:.3f} to {:.3f}'.format(*r.interval), len(r.right)] for name, r in results]
  drawn = [_passes(result) for _, result in results]
  if any(drawn):
    head.append('drawn responses')
    rows = [[*row, passes] for row, passes in zip(rows, drawn)]
  return pages.table(head, rows)


def _kinds(results: Sequence[tuple[str, Result]]) -> str:
  """Accuracy by question, where the held-out queries ask few different ones; else nothing."""
  questions = sorted({_question(query) for _, result in results for query in result.queries})
  if not 1 < len(questions) <= MOST_KINDS or results[0][1].measure != 'accuracy':
    return ''
  rows = []
  for question in questions:
    row = [question]
    for _, result in results:
      of_kind = [right for query, right in zip(result.queries, result.right) if _question(query) == question]
      row += _share(sum(of_kind), len(of_kind))
    rows.append(row)
  head = ['question', *(cell for name, _ in results for cell in (f'right {name}', '95 % interval'))]
  return pages.table(head, rows)


def _share(right: float, n: int) -> tuple[str, str]:
  """A count with its share, and the interval of the share."""
  if not n:
    return 'none asked', ''
  low, high = wilson(right, n)
  return f'{right:.0f} of {n} ({100 * right / n:.1f} %)', f'{low:.3f} to {high:.3f}'


def write(
  workdir: pathlib.Path,
  before: Result,
  after: Result,
  page: Page = Page(),
  *,
  glance: int = 0,
  run: Sequence[tuple[str, str]] = (),
) -> pathlib.Path:
  """Writes reward.png, report.html and, to ask the model about, samples/*.png; returns the page's path.

  glance: see `Outcome`; 0: all queries. run: facts of the run by name, for the head of the page.
  """
  with_images = [q for q in after.queries if q.images][:PICTURES]
  if with_images:
    (workdir / 'samples').mkdir(exist_ok=True)
  for n, query in enumerate(with_images):
    _picture(query.images[0]).save(workdir / 'samples' / f'{n}.png')
  results = [('before', before), ('after', after)]
  text = pages.page(
    page.title,
    BODY,
    run=pages.table(['run', ''], run, text=(0, 1)) if run else '',
    table=_table(results),
    kinds=_kinds(results),
    chart=pages.chart(charts.data_uri(plot(workdir, before, after, page, glance=glance)), 'reward by rollout'),
    results=results,
    shown=page.shown,
    question=_question,
    answer=page.answer,
    sections=page.sections,
    drawn=lambda response: [charts.picture_uri(image) for image in page.pictures(response)],
    images=_data_uris,
  )
  path = workdir / 'report.html'
  replace(path, text)
  return path
