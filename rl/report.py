"""What a run leaves for people: the reward curve and a page of sample answers."""

import base64
import html
import io
import json
import pathlib

from PIL import Image

from core.training.record import replace
from rl.evaluate import Result

SAMPLES = 36  # answers on the page
PICTURES = 8  # images written apart
STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}
.grid{display:grid;grid-template-columns:repeat(auto-fill,minmax(13rem,1fr));gap:1rem}
figure{margin:0;padding:.7rem;border:1px solid #ddd;border-radius:8px}
figure img{width:100%;image-rendering:pixelated;border-radius:4px}
.right{color:#0a7d33}.wrong{color:#b3261e}table{border-collapse:collapse}td,th{padding:.25rem .9rem .25rem 0;
text-align:left}img.curve{width:100%}"""


def curve(workdir: pathlib.Path) -> list[dict]:
  """The lines of metrics.jsonl."""
  return [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text(encoding='utf-8').splitlines()]


def plot(workdir: pathlib.Path, before: Result, after: Result) -> pathlib.Path:
  """Writes reward.png: training reward a step, held-out accuracy, and the warm-up's accuracy with its interval."""
  import matplotlib

  matplotlib.use('Agg')
  import matplotlib.pyplot as plt

  lines = curve(workdir)
  fig, ax = plt.subplots(figsize=(9, 4.5), dpi=130)
  steps = [m['step'] for m in lines]
  ax.plot(steps, [m['reward'] for m in lines], color='#9db8d9', lw=1, label='training reward (sampled)')
  seen = [(m['step'], m['heldout_accuracy']) for m in lines if 'heldout_accuracy' in m]
  ax.plot(*zip(*([(0, before.accuracy), *seen])), 'o-', color='#1f4e8c', ms=4, label='held-out accuracy (greedy)')
  for result, colour, name in ((before, '#888888', 'warm-up'), (after, '#0a7d33', 'after RL')):
    ax.axhspan(*result.interval, color=colour, alpha=0.15)
    ax.axhline(
      result.accuracy,
      color=colour,
      lw=1,
      ls='--',
      label=f'{name}: {100 * result.accuracy:.1f} % of {len(result.right)}',
    )
  ax.set(xlabel='rollout', ylabel='share right', ylim=(0, 1), xlim=(0, max(steps)))
  ax.grid(alpha=0.2)
  ax.legend(loc='lower right', frameon=False)
  fig.tight_layout()
  path = workdir / 'reward.png'
  fig.savefig(path)
  plt.close(fig)
  return path


def _picture(image) -> Image.Image:
  """An image of a query, which may be a path."""
  return image if isinstance(image, Image.Image) else Image.open(image)


def _data_uri(image) -> str:
  buffer = io.BytesIO()
  _picture(image).save(buffer, format='PNG')
  return 'data:image/png;base64,' + base64.b64encode(buffer.getvalue()).decode()


def _pass(r: Result) -> str:
  return ', '.join(f'{k}: {100 * v:.1f} %' for k, v in r.summary().items() if k.startswith('pass@')) or 'none drawn'


def _card(query, before: str, after: str, right: bool) -> str:
  asked = query.messages[-1]['content']
  parts = [asked] if isinstance(asked, str) else [part.get('text', '') for part in asked]
  question = html.escape(' '.join(parts).replace('<image>', '').strip())
  pictures = ''.join(f'<img src="{_data_uri(image)}" alt="an image of the question">' for image in query.images)
  mark = 'right' if right else 'wrong'
  return (
    f'<figure>{pictures}<div>{question}</div>'
    f'<div>warm-up: {html.escape(before)}</div><div class="{mark}">after RL: {html.escape(after)}</div>'
    f'<div>answer: {html.escape(query.answer)}</div></figure>'
  )


def write(workdir: pathlib.Path, before: Result, after: Result) -> pathlib.Path:
  """Writes reward.png, report.html and, to ask the model about, samples/*.png; returns the page's path."""
  (workdir / 'samples').mkdir(exist_ok=True)
  for n, query in enumerate([q for q in after.queries if q.images][:PICTURES]):
    _picture(query.images[0]).save(workdir / 'samples' / f'{n}.png')
  picture = base64.b64encode(plot(workdir, before, after).read_bytes()).decode()
  rows = ''.join(
    f'<tr><td>{name}</td><td>{100 * r.accuracy:.1f} %</td><td>{100 * r.interval[0]:.1f} to '
    f'{100 * r.interval[1]:.1f} %</td><td>{_pass(r)}</td><td>{len(r.right)}</td></tr>'
    for name, r in (('warm-up', before), ('reinforcement learning', after))
  )
  cards = ''.join(
    _card(q, b, a, ok) for q, b, a, ok in list(zip(after.queries, before.answers, after.answers, after.right))[:SAMPLES]
  )
  page = (
    f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Espalier: {html.escape(workdir.name)}</title>'
    f'<style>{STYLE}</style><h1>A policy that learned from reward</h1><table><tr><th>after</th>'
    f'<th>held-out accuracy</th><th>95 % interval</th><th>drawn answers</th>'
    f'<th>questions</th></tr>{rows}</table>'
    f'<p><img class="curve" alt="reward curve" src="data:image/png;base64,{picture}"></p>'
    f'<h2>The first {min(SAMPLES, len(after.right))} held-out questions</h2>'
    f'<div class="grid">{cards}</div></html>'
  )
  path = workdir / 'report.html'
  replace(path, page)
  return path
