"""The results of a study of loops: numbers, a chart, a page and a few lines."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from core.report import charts, pages
from core.report.intervals import wilson
from interp.loops.search import Found
from interp.loops.study import Held, Study

MOST_BARS = 24
MOST_TEXT = 160  # characters

BODY = """
<p>{% for line in lines %}{{ line }}<br>{% endfor %}</p>
<h2>Single components</h2>{{ chart }}
<p>Of the half on which components are chosen; the damage is edits a word in speech that does not loop.</p>{{ ranking }}
<h2>Sets on the held-out half</h2>{{ sets }}
<h2>Clips that loop</h2>{{ clips }}
"""


def name(parts) -> str:
  """Of a set."""
  return ' + '.join(map(str, parts))


def summary(study: Study, errors: dict[str, dict[str, float]]) -> list[str]:
  """The findings in a few lines."""
  chosen = len(study.chosen)
  held = len(study.held)
  by_single = study.by_clip.any(0).mean()
  lines = [f'{len(study.loops)} of {study.clips} clips loop; {chosen} to choose on, {held} held out']
  lines += [f'without {name(one.parts)}: {_counted(one)}' for one in study.sets]
  lines.append(f'without random sets of the same kinds: {_random(study.controls)}')
  lines.append(f'some single component ends {by_single:.0%} of the loops of the other half')
  for recording, rates in errors.items():
    before = rates['with']
    after = rates['without']
    lines.append(f'{recording}: word error rate {before:.1%}, {after:.1%} without the set')
  return lines


def _counted(one: Held) -> str:
  """What a set ends and damages."""
  held = len(one.outcomes)
  low, high = wilson(round(one.ended * held), held)
  interval = f'95 % interval {low:.0%} to {high:.0%}'
  return f'{one.ended:.0%} of held-out loops end ({interval}), damage {one.damage:.1%}'


def _random(controls: Sequence[Held]) -> str:
  """What random sets end and damage, on average."""
  shares = [one.ended for one in controls]
  damages = [one.damage for one in controls]
  mean = np.mean(shares)
  damage = np.mean(damages)
  together = f'{mean:.0%} of held-out loops end on average, {max(shares):.0%} at most'
  return f'{together}, damage {damage:.1%} on average'


def numbers(study: Study, errors: dict[str, dict[str, float]]) -> dict[str, Any]:
  """The findings as JSON."""
  loops = [{'clip': clip.name, **dataclasses.asdict(outcome)} for clip, outcome in study.loops]
  ends = {str(part): row.tolist() for part, row in zip(study.candidates, study.by_clip)}
  return {
    'clips': study.clips,
    'loops': loops,
    'chosen': study.chosen,
    'held': study.held,
    'unlooped': [clip.name for clip in study.unlooped],
    'rounds': [[_found(one) for one in ranking] for ranking in study.rounds],
    'sets': [_held(one) for one in study.sets],
    'controls': [_held(one) for one in study.controls],
    'by_clip': ends,
    'word_errors': errors,
  }


def _found(one: Found) -> dict[str, Any]:
  return {'set': name(one.parts), **dataclasses.asdict(one.score)}


def _held(one: Held) -> dict[str, Any]:
  texts = [outcome.text for outcome in one.outcomes]
  return {'set': name(one.parts), 'ended': one.ended, 'damage': one.damage, 'texts': texts}


def chart(study: Study):
  """Bars: the share of loops that each single component's absence ends, and its damage."""
  ranking = sorted(study.rounds[0], key=lambda one: -one.score.ended)
  found = ranking[:MOST_BARS]
  names = [name(one.parts) for one in found]
  places = range(len(found))
  fig, (above, below) = charts.stacked(8, 5, 2, ratios=(2, 1))
  above.bar(places, [one.score.ended for one in found], color=charts.STRONG)
  above.set_ylabel('loops ended')
  above.set_ylim(0, 1)
  below.bar(places, [one.score.damage for one in found], color=charts.GREY)
  below.set_yscale('log')
  below.set_ylabel('damage')
  below.set_xticks(places, names, rotation=90, fontsize=7)
  return fig


def write(out: pathlib.Path, study: Study, errors: dict[str, dict[str, float]]) -> None:
  """Writes loops.html and loops.png into the folder."""
  fig = chart(study)
  charts.save(fig, out / 'loops.png')
  ranking = [_row(name(one.parts), one.score.ended, one.score.damage) for one in study.rounds[0]]
  counted = (*study.sets, *study.controls)
  sets = [_row(name(one.parts), one.ended, one.damage) for one in counted]
  body = pages.page(
    'What makes Whisper repeat itself',
    BODY,
    lines=summary(study, errors),
    chart=_image(fig),
    ranking=pages.table(('component', 'loops ended', 'damage'), ranking),
    sets=pages.table(('set, then random ones', 'loops ended', 'damage'), sets),
    clips=pages.table(('clip', 'ratio', 'says', 'says without the set'), _clips(study), text=(0, 2, 3)),
  )
  (out / 'loops.html').write_text(body, encoding='utf-8')


def _row(title: str, ended: float, damage: float) -> tuple[str, str, str]:
  return (title, f'{ended:.0%}', f'{damage:.1%}')


def _image(fig) -> Markup:
  return pages.chart(charts.data_uri(charts.png(fig)), 'Share of loops ended by component')


def _clips(study: Study) -> list[tuple]:
  """Rows of the table of clips, the held-out ones with what is said without the largest set."""
  without = dict(zip(study.held, study.sets[-1].outcomes))
  rows = []
  for i, (clip, outcome) in enumerate(study.loops):
    after = ''
    if i in without:
      after = without[i].text
    rows.append((clip.name, f'{outcome.compression:.1f}', outcome.text[:MOST_TEXT], after[:MOST_TEXT]))
  return rows
