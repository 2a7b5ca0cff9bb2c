"""A study as one HTML file: charts, a table of the lens with its values, and the recording, played token by token."""

import base64
import os
import pathlib

import numpy as np
from markupsafe import Markup

from core.audio import wav_bytes
from core.files import store
from core.report import charts as core_charts
from core.report import pages
from interp import lens
from interp.report import charts
from interp.report.window import Study
from interp.whisper.config import RATE

MOST_TEXT = 240  # characters of an encoder layer's text: early layers repeat themselves

BODY = """
<style>
.lens td { padding: .1rem .3rem; white-space: nowrap; cursor: pointer; border-radius: 3px; max-width: 6rem;
           overflow: hidden; text-overflow: ellipsis; }
.lens th { position: sticky; left: 0; background: Canvas; }
.lens td.dark { color: #fff; }
#values { min-height: 1.5em; font-variant-numeric: tabular-nums; }
.lens td.said { font-weight: 600; }
</style>
<p><b>{{ study.answer.text }}</b></p>
<p>{{ study.samples | length / rate }} seconds; compression ratio {{ '%.2f' % study.answer.compression }}, mean
log-probability {{ '%.2f' % study.answer.avg_logp }}, no-speech probability {{ '%.2f' % study.answer.no_speech }}.</p>
<audio id="recording" controls src="{{ recording }}"></audio>
<h2>What each layer of the decoder would say</h2>
<p>The logit lens: the final norm and the output matrix on the residual stream after each layer. Point at a cell, or
tap it, for its values and to hear its part of the recording. The last row is what the model says.</p>
<div class="scroll lens"><table>
{% for row in cells %}<tr><th>{{ loop.index0 }}</th>
{% for c in row %}<td class="{{ 'said' if c.rank == 0 }} {{ 'dark' if c.shade > 0.6 }}"
 title="{{ c.title }}" data-start="{{ c.start }}" data-end="{{ c.end }}"
 style="background: rgba(24, 128, 58, {{ c.shade }})">{{ c.text }}</td>{% endfor %}</tr>
{% endfor %}</table></div>
<p id="values"></p>
{{ lens_chart }}
<h2>How sure it is</h2>{{ curves_chart }}
<p>{{ saturated }}</p>
<h2>Where each token is heard</h2>
<p>Cross-attention of the heads that word times come from.</p>{{ attention_chart }}
<h2>What the decoder makes of each layer of the encoder</h2>
<p>The encoder lens: the encoder's final norm on an earlier layer. Row 0 is before any layer.</p>{{ encoder }}
<script>
const audio = document.getElementById('recording');
const values = document.getElementById('values');
let end = Infinity;
// The audio's own events come four times a second, too rarely for a token.
function stop() {
  if (audio.currentTime >= end) { audio.pause(); end = Infinity; }
  if (!audio.paused) requestAnimationFrame(stop);
}
document.querySelectorAll('.lens td').forEach(cell => {
  cell.addEventListener('pointerenter', () => { values.textContent = cell.title; });
  cell.addEventListener('click', () => {
    audio.currentTime = Number(cell.dataset.start);
    end = Number(cell.dataset.end);
    audio.play().then(stop);
  });
});
</script>
"""


def write(path: str | os.PathLike, study: Study, *, title: str) -> None:
  """Writes the page of a study; the file appears when it is complete, and needs no other file."""
  target = pathlib.Path(path)
  store.folder(target.parent).write(target.name, [html(study, title=title).encode()])


def html(study: Study, *, title: str) -> str:
  """The page of a study."""
  recording = 'data:audio/wav;base64,' + base64.b64encode(wav_bytes(study.samples, RATE)).decode()
  return pages.page(
    title,
    BODY,
    study=study,
    rate=RATE,
    recording=recording,
    cells=_cells(study),
    lens_chart=_chart(charts.lens(study), 'heat map of the logit lens'),
    curves_chart=_chart(charts.curves(study), 'probability and entropy by layer'),
    attention_chart=_chart(charts.attention(study), 'cross-attention by token and time'),
    saturated=_saturated(study),
    encoder=pages.table(('layer', 'text'), enumerate(_short(r.text) for r in study.by_encoder_layer), text=(1,)),
  )


def _chart(fig, alt: str) -> Markup:
  return pages.chart(core_charts.data_uri(core_charts.png(fig)), alt)


def _short(text: str) -> str:
  if len(text) <= MOST_TEXT:
    return text
  return f'{text[:MOST_TEXT]}…'


def _cells(study: Study) -> list[list[dict]]:
  """One cell for each layer and token."""
  places = range(len(study.pieces))
  layers = range(len(study.likeliest))
  return [[_cell(study, layer, at) for at in places] for layer in layers]


def _cell(study: Study, layer: int, at: int) -> dict:
  measures = np.exp(study.lens.logp), study.lens.rank, study.lens.entropy
  probability, rank, entropy = (float(x[layer, at]) for x in measures)
  values = f'p {probability:.3f}, rank {rank:.0f}, entropy {entropy:.2f} nats'
  return {
    'text': study.likeliest[layer][at],
    'title': f'{study.pieces[at]!r}: {values}',
    'rank': rank,
    'shade': round(probability, 2),
    'start': round(float(study.times[at]), 2),
    'end': round(float(study.times[at + 1]), 2),
  }


def _saturated(study: Study) -> str:
  """How many tokens are decided at each layer."""
  batched = study.lens.replace(rank=study.lens.rank[:, None])
  first = [int(layer) for layer in lens.saturation(batched)[0]]
  depth = len(study.likeliest)
  counts = ', '.join(f'{first.count(layer)} after layer {layer}' for layer in range(depth))
  return f'Tokens that are the likeliest from a layer on: {counts}.'
