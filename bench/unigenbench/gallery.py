"""A page of the images with the judge's verdict on each checkpoint."""

from collections.abc import Sequence
from pathlib import Path

from bench.harness.store import write_text
from bench.harness.task import Item
from core.report.pages import page

SIDE = 256

_BODY = """\
<p>{{ rows|length }} prompts. Green: fulfilled; red: not; grey: the judge's reply could not be read.
<label><input type="checkbox" id="failed"> only prompts with a failure</label></p>
{% for row in rows %}
<section class="prompt{{ ' clean' if row.clean }}">
  <h3>{{ row.index }}</h3><p class="ask">{{ row.prompt }}</p>
  <div class="images">
  {% for image in row.images %}
    <figure>
      {% if image.picture %}
      <img loading="lazy" alt="image {{ image.id }}" src="{{ image.picture }}">
      {% endif %}
      <figcaption>{{ image.id }}
        <ul>{% for name, phrase, bit in image.verdicts %}
          <li class="{{ {1: 'yes', 0: 'no'}.get(bit, 'none') }}"><b>{{ name }}</b>: {{ phrase }}</li>
        {% endfor %}</ul>
        {% if image.analysis %}
        <details><summary>what the judge saw</summary><pre>{{ image.analysis }}</pre></details>
        {% endif %}
      </figcaption>
    </figure>
  {% endfor %}
  </div>
</section>
{% endfor %}
<script>
document.getElementById('failed').onchange = e =>
  document.querySelectorAll('.clean').forEach(s => s.hidden = e.target.checked);
</script>"""


def write(items: Sequence[Item], folder: str) -> str:
  """Writes gallery.html and, next to it, thumbnails of existing images; returns the page's name."""
  rows: dict[str, dict] = {}
  for item in items:
    prompt = item.example.fields['prompt']
    row = rows.setdefault(item.example.cluster, {'index': prompt.index, 'prompt': prompt.text, 'images': []})
    bits = item.outcomes[0].detail['parsed'] or [None] * len(prompt.points)
    row['images'].append(
      {
        'id': item.example.id,
        'analysis': item.outcomes[0].detail['analysis'],
        'verdicts': [(point.en, phrase, bit) for point, phrase, bit in zip(prompt.points, prompt.phrases, bits)],
        'picture': _thumbnail(item, Path(folder)),
      }
    )
  for row in rows.values():
    row['clean'] = all(bit == 1 for image in row['images'] for *_, bit in image['verdicts'])
  write_text(Path(folder) / 'gallery.html', page('UniGenBench: images and verdicts', _BODY, rows=list(rows.values())))
  return 'gallery.html'


def _thumbnail(item: Item, folder: Path) -> str | None:
  source = item.example.fields['image']
  if source is None or not source.is_file():
    return None
  from PIL import Image, UnidentifiedImageError

  target = folder / 'thumbnails' / f'{item.example.id}.jpg'
  if not target.exists():
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
      with Image.open(source) as image:
        small = image.convert('RGB')
        small.thumbnail((SIDE, SIDE))
        small.save(target, 'JPEG', quality=85)
    except (UnidentifiedImageError, OSError):
      return None
  return f'thumbnails/{target.name}'
