"""What a run leaves: its weights as a checkpoint folder, results.json, the reward curve and a page of responses."""

import dataclasses
import json
import math
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax

from core import mesh
from core import params as params_lib
from core.report import charts, pages
from core.training.record import replace
from rl.evaluate import Result
from rl.policy import Policy
from rl.query import Query

PICTURES = 8  # images written as files
BODY = """
{{ table }}{{ chart }}
{% for name, r in results %}<h2>Responses {{ name }} reinforcement learning</h2>
{% for i in range([shown, r.right | length] | min) %}
<details class="{{ 'yes' if r.right[i] == 1 else 'no' }}" {{ 'open' if i < 2 }}><summary>
{% for uri in images(r.queries[i]) %}<img src="{{ uri }}" alt="an image of the question" height="56"> {% endfor %}
{{ question(r.queries[i]) }}
{% for uri in drawn(r.responses[i]) %}<img src="{{ uri }}" alt="an image of the response" height="56"> {% endfor %}
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
  """What a run ends with. before, after: held-out responses before and after reinforcement."""

  policy: Policy
  weights: Any
  before: Result
  after: Result
  seed: int = 0

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
    write(workdir, outcome.before, outcome.after, page)
  for name, result in (('before', outcome.before), ('after', outcome.after)):
    print(f'held-out {result.measure} {name} reinforcement learning: {result}')
  print(f'report: {workdir / "report.html"}')


def curve(workdir: pathlib.Path) -> list[dict]:
  """The lines of metrics.jsonl."""
  return [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text(encoding='utf-8').splitlines()]


def plot(workdir: pathlib.Path, before: Result, after: Result, page: Page = Page()) -> bytes:
  """Writes reward.png and returns it: training reward and held-out accuracy by rollout, below them `page.panel`."""
  lines = curve(workdir)
  steps = [m['step'] for m in lines]
  fig, axes = charts.stacked(9, 6.5 if page.panel else 4.5, 1 + bool(page.panel), ratios=(3, 2) if page.panel else None)
  _rewards(axes[0], lines, before, after)
  for key, label in page.panel:
    charts.curve(axes[-1], steps, [m.get(key, math.nan) for m in lines], label=label, lw=1)
  if page.panel:
    axes[-1].set(ylabel=page.panel_label, ylim=(0, None))
  for axis in axes:
    axis.grid(alpha=0.2)
    axis.legend(frameon=False)
  axes[-1].set(xlabel='rollout', xlim=(0, max(steps, default=1)))
  charts.save(fig, workdir / 'reward.png')
  return charts.png(fig)


def _rewards(axis: Any, lines: Sequence[dict], before: Result, after: Result) -> None:
  steps, rewards = [m['step'] for m in lines], [m['reward'] for m in lines]
  charts.curve(axis, steps, rewards, label='training reward', color=charts.SOFT, lw=1)
  key = f'heldout_{before.measure}'
  seen = [(0, before.accuracy), *((m['step'], m[key]) for m in lines if key in m)]
  style = {'color': charts.STRONG, 'marker': 'o', 'ms': 4}
  charts.curve(axis, *zip(*seen), label=f'held-out {before.measure}', **style)
  for result, colour, name in ((before, charts.GREY, 'before'), (after, charts.GREEN, 'after')):
    label = f'{name}: {result.accuracy:.3f} of {len(result.right)}'
    charts.level(axis, result.accuracy, result.interval, label=label, color=colour)
  axis.set(ylabel=before.measure)
  if before.measure == 'accuracy':
    axis.set(ylim=(0, 1))


def _picture(image: Any) -> Any:
  """An image of a query, which may be a path."""
  from PIL import Image

  return image if isinstance(image, Image.Image) else Image.open(image)


def _data_uris(query: Query) -> list[str]:
  return [charts.picture_uri(_picture(image)) for image in query.images]


def _question(query: Query) -> str:
  asked = query.messages[-1]['content']
  parts = [asked] if isinstance(asked, str) else [part.get('text', '') for part in asked]
  return ' '.join(parts).replace('<image>', '').strip()


def _passes(result: Result) -> str:
  rates = {k: v for k, v in result.summary().items() if k.startswith('pass@')}
  return ', '.join(f'{k}: {100 * v:.1f} %' for k, v in rates.items()) or 'none drawn'


def _table(results: Sequence[tuple[str, Result]]) -> str:
  head = [
    'reinforcement learning',
    f'held-out {results[0][1].measure}',
    '95 % interval',
    'drawn responses',
    'questions',
  ]
  rows = [
    (name, f'{r.accuracy:.3f}', '{:.3f} to {:.3f}'.format(*r.interval), _passes(r), len(r.right)) for name, r in results
  ]
  return pages.table(head, rows)


def write(workdir: pathlib.Path, before: Result, after: Result, page: Page = Page()) -> pathlib.Path:
  """Writes reward.png, report.html and, to ask the model about, samples/*.png; returns the page's path."""
  with_images = [q for q in after.queries if q.images][:PICTURES]
  if with_images:
    (workdir / 'samples').mkdir(exist_ok=True)
  for n, query in enumerate(with_images):
    _picture(query.images[0]).save(workdir / 'samples' / f'{n}.png')
  results = [('before', before), ('after', after)]
  text = pages.page(
    page.title,
    BODY,
    table=_table(results),
    chart=pages.chart(charts.data_uri(plot(workdir, before, after, page)), 'reward by rollout'),
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
