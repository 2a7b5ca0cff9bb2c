"""An episode for people: lines while it runs, one HTML page afterwards. All text in them is untrusted."""

import sys
from pathlib import Path
from typing import TextIO

from agents.planner.episode import Episode, Event
from agents.toolbox import shortened
from core.report.pages import page
from core.training.record import replace

LINE = 160  # characters of a line on the terminal
SHOWN = 20_000  # characters of a text on the page
COLOURS = {'case': 35, 'planner': 34, 'task': 36, 'call': 33, 'failure': 31, 'answer': 32, 'stop': 31}
OPEN = frozenset({'planner', 'task', 'result', 'answer', 'stop'})  # unfolded on the page

_BODY = """\
<p><b>{{ e.question }}</b></p>
<div class="scroll"><table>
  <tr><th>answer</th><td>{{ e.answer or '(none)' }}</td></tr>
  <tr><th>ended</th><td>{{ e.stop }} after {{ '%.1f' | format(e.seconds) }} s</td></tr>
  <tr><th>tokens</th><td>{{ e.prompt_tokens }} read, {{ e.reply_tokens }} written</td></tr>
  <tr><th>tasks, calls</th><td>{{ e.subtasks | length }}, {{ calls }}</td></tr>
  <tr><th>memory</th><td>{{ e.read | length }} cases by {{ e.selector }}</td></tr>
</table></div>
{% for event, text in events %}
<details class="{{ event.kind }}" {{ 'open' if event.kind in unfolded }}>
  <summary>{{ '%6.1f' | format(event.at) }} s · <b>{{ event.kind }}</b> · {{ event.title }}</summary>
  {% if text %}<pre>{{ text }}</pre>{% endif %}
</details>
{% endfor %}"""


def printable(text: str) -> str:
  """A text without control characters, which could rewrite a terminal; line ends and tabs as blanks."""
  return ''.join(c if c.isprintable() else ' ' for c in text)


class Printer:
  """Prints events as they come, one line each; in colour on a terminal."""

  def __init__(self, stream: TextIO | None = None):
    self._stream = stream or sys.stderr
    self._colour = self._stream.isatty()

  def __call__(self, event: Event) -> None:
    detail = printable(event.text).strip()
    line = f'{event.at:7.1f}s {event.kind:>11}  {printable(event.title)}'
    if detail:
      line += f': {detail}'
    if len(line) > LINE and event.kind not in ('answer', 'task'):
      line = f'{line[: LINE - 2]} …'
    if self._colour and event.kind in COLOURS:
      line = f'\x1b[{COLOURS[event.kind]}m{line}\x1b[0m'
    print(line, file=self._stream, flush=True)


def html(episode: Episode) -> str:
  """The episode as a self-contained page."""
  events = [(event, shortened(event.text, SHOWN)) for event in episode.events]
  return page(
    'Trace', _BODY, e=episode, events=events, unfolded=OPEN, calls=sum(len(task.calls) for task in episode.subtasks)
  )


def write(episode: Episode, path: Path) -> None:
  """Writes the page, whole or not at all."""
  path.parent.mkdir(parents=True, exist_ok=True)
  replace(path, html(episode))
