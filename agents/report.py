"""What a run leaves for people: the curves, and a page of conversations with tools."""

import base64
import json
import pathlib

from core.report.pages import page
from core.training.record import replace
from rl.report import curve

SAMPLES = 12  # conversations on the page
BODY = """
<table><tr><th>reinforcement learning</th><th class="n">held-out accuracy</th><th class="n">95 % interval</th>
<th class="n">problems</th></tr>
{% for name, r in results %}<tr><td>{{ name }}</td><td class="n">{{ '%.1f' % (100 * r.accuracy) }} %</td>
<td class="n">{{ '%.1f to %.1f' % (100 * r.interval[0], 100 * r.interval[1]) }} %</td>
<td class="n">{{ r.right | length }}</td></tr>{% endfor %}</table>
<p><img alt="reward and tool errors by rollout" src="data:image/png;base64,{{ picture }}"></p>
{% for name, r in results %}<h2>Conversations {{ name }} reinforcement learning</h2>
{% for i in range([samples, r.right | length] | min) %}
<details class="{{ 'yes' if r.right[i] else 'no' }}" {{ 'open' if i < 2 }}><summary>{{ r.queries[i].question }} =
<b>{{ r.answers[i] or 'no answer' }}</b>{% if not r.right[i] %}, expected {{ r.queries[i].answer }}{% endif %}
({{ r.traces[i].stop }})</summary>
{% for turn in r.traces[i].turns %}<h3>model</h3><pre>{{ turn.text }}</pre>
{% for response in turn.responses %}<h3>tool: {{ response.status }}</h3><pre>{{ response.text }}</pre>{% endfor %}
{% endfor %}</details>{% endfor %}{% endfor %}
"""


def plot(workdir: pathlib.Path, before, after) -> pathlib.Path:
  """Writes reward.png: reward and held-out accuracy by rollout, and below the failed calls of right trajectories."""
  import matplotlib

  matplotlib.use('Agg')
  import matplotlib.pyplot as plt

  lines = curve(workdir)
  steps = [m['step'] for m in lines]
  fig, (top, low) = plt.subplots(2, 1, figsize=(9, 6.5), dpi=130, sharex=True, height_ratios=(3, 2))
  top.plot(steps, [m['reward'] for m in lines], color='#9db8d9', lw=1, label='training reward')
  seen = [(m['step'], m['heldout_accuracy']) for m in lines if 'heldout_accuracy' in m]
  top.plot(*zip(*([(0, before.accuracy), *seen])), 'o-', color='#1f4e8c', ms=4, label='held-out accuracy')
  for result, colour, name in ((before, '#888888', 'before'), (after, '#0a7d33', 'after')):
    top.axhspan(*result.interval, color=colour, alpha=0.15)
    top.axhline(
      result.accuracy,
      color=colour,
      lw=1,
      ls='--',
      label=f'{name}: {100 * result.accuracy:.1f} % of {len(result.right)}',
    )
  top.set(ylabel='share right', ylim=(0, 1))
  for key, name in (('right_calls_failed', 'all right trajectories'), ('kept_right_calls_failed', 'those trained on')):
    low.plot(steps, [m[key] for m in lines], lw=1, label=name)
  low.set(xlabel='rollout', ylabel='failed tool calls', ylim=(0, None), xlim=(0, max(steps)))
  for ax in (top, low):
    ax.grid(alpha=0.2)
    ax.legend(frameon=False)
  fig.tight_layout()
  path = workdir / 'reward.png'
  fig.savefig(path)
  plt.close(fig)
  return path


def write(workdir: pathlib.Path, before, after) -> pathlib.Path:
  """Writes reward.png, conversations.jsonl and report.html of two `agents.setup.Result`s; returns the page's path."""
  picture = base64.b64encode(plot(workdir, before, after).read_bytes()).decode()
  results = [('before', before), ('after', after)]
  lines = [
    {
      'when': name,
      'question': q.question,
      'reference': q.answer,
      'answer': a,
      'right': ok,
      'stop': t.stop,
      'turns': [{'text': turn.text, 'responses': [[r.status, r.text] for r in turn.responses]} for turn in t.turns],
    }
    for name, r in results
    for q, a, ok, t in zip(r.queries, r.answers, r.right, r.traces)
  ]
  replace(workdir / 'conversations.jsonl', ''.join(json.dumps(line, ensure_ascii=False) + '\n' for line in lines))
  path = workdir / 'report.html'
  replace(path, page('A policy that learned to use a tool', BODY, results=results, picture=picture, samples=SAMPLES))
  return path
