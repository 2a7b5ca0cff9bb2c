"""ScreenSpot (arXiv 2401.10935), its second version and ScreenSpot-Pro: where to click for an instruction."""

import functools
import io
import re
from collections.abc import Mapping
from pathlib import Path

from bench.harness.literals import read_list
from bench.harness.rows import RowError, load_examples, need, row_id
from bench.harness.task import NO_ANSWER, OK, Answer, Data, Example, Outcome, Sampling, Task, each, user_message
from bench.vlm.grounding import UNITS, Box
from bench.vlm.pictures import folder_of, picture_of, picture_part
from rl.rewards.extract import conclusion

PROMPT = 'Where should one click to do this: {}\nAnswer with one point [x, y] in thousandths of the picture.'
_POINT_WORDS = {'thousandths': 'thousandths of the picture', 'unit': 'the unit square', 'pixels': 'pixels'}
_NUMBER = r'\s*(-?(?:\d{1,7}(?:\.\d{0,12})?|\.\d{1,12}))\s*'
_IS = r'["\']?\s*[=:]\s*["\']?'
_NAMED = rf'\bx{_IS}{_NUMBER}["\']?[\s,]\s*["\']?y{_IS}{_NUMBER}'
_TAGGED = rf'<point>{_NUMBER}[\s,]{_NUMBER}</point>'
_BRACKETED = rf'[\[(]{_NUMBER},{_NUMBER}(?:[\])],?\s*[\[(]|,)?(?:{_NUMBER},{_NUMBER})?[\])]'
_PLACE = re.compile(f'{_NAMED}|{_TAGGED}|{_BRACKETED}')


def screenspot(*, unit: str = 'thousandths') -> Task:
  """ScreenSpot. unit: how the model writes points and boxes (thousandths, unit, pixels)."""
  if unit not in UNITS:
    raise ValueError(f'unit is {unit!r}, expected one of {", ".join(UNITS)}')
  template = PROMPT.replace(_POINT_WORDS['thousandths'], _POINT_WORDS[unit])
  return Task(
    name='screenspot',
    primary='accuracy',
    template=template,
    load=_load,
    prompt=functools.partial(_prompt, template=template),
    score=each(functools.partial(_score, unit=unit)),
    sampling=Sampling(max_tokens=512),
    settings={'unit': unit},
    group_metrics=('accuracy',),
  )


def clicked(text: str) -> tuple[float, float] | None:
  """The last point of a text, or the centre of its last box: `click(x, y)`, `[[x1, y1, x2, y2]]`, `x=1, y=2`."""
  found = []
  for match in _PLACE.finditer(text):
    numbers = [float(n) for n in match.groups() if n is not None]
    found.append(tuple(numbers))
  if not found:
    return None
  place = found[-1]
  if len(place) == 2:
    return place
  return ((place[0] + place[2]) / 2, (place[1] + place[3]) / 2)


def _load(path: str) -> Data:
  return load_examples(path, functools.partial(_example, folder=folder_of(path)))


def _example(where: str, row: Mapping, *, folder: Path) -> Example:
  picture = picture_of(row, folder)
  if picture is None:
    raise RowError('missing:image')
  size = _size(picture)
  fields = {
    'instruction': need(row, 'instruction' if row.get('instruction') else 'question'),
    'box': _target(row, size),
    'size': size,
    'picture': picture,
  }
  kind = row.get('data_type') or row.get('ui_type') or 'all'
  source = row.get('data_source') or row.get('platform') or 'all'
  return Example(row_id(row, where, 'id', 'index'), fields, {'type': str(kind), 'source': str(source)})


def _size(picture: bytes) -> tuple[int, int]:
  from PIL import Image, UnidentifiedImageError

  try:
    return Image.open(io.BytesIO(picture)).size
  except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
    raise RowError(f'picture cannot be read: {error}') from None


def _target(row: Mapping, size: tuple[int, int]) -> Box:
  """The target's corners in pixels, from any of the three public forms.

  Corners in the unit square (the Parquet files), corners in pixels (ScreenSpot-Pro, which has `img_size`), else
  left, top, width and height in pixels.
  """
  box = row.get('bbox')
  if isinstance(box, str):
    try:
      box = read_list(box)
    except ValueError as error:
      raise RowError(f'bbox: {error}') from None
  if not isinstance(box, list) or len(box) != 4 or not all(isinstance(v, (int, float)) for v in box):
    raise RowError('bbox is not four numbers')
  a, b, c, d = map(float, box)
  if max(a, b, c, d) <= 1:
    return a * size[0], b * size[1], c * size[0], d * size[1]
  if row.get('img_size'):
    return (a, b, c, d)
  return (a, b, a + c, b + d)


def _prompt(example: Example, *, template: str) -> list[dict]:
  return user_message(picture_part(example.fields['picture']), template.format(example.fields['instruction']))


def _score(example: Example, answer: Answer, *, unit: str) -> Outcome:
  point = clicked(conclusion(answer.text))
  if point is None:
    return Outcome(NO_ANSWER, None, {'accuracy': (0.0, 1.0)})
  width, height = example.fields['size']
  scale = {'thousandths': (width / 1000, height / 1000), 'unit': (width, height), 'pixels': (1, 1)}[unit]
  x = point[0] * scale[0]
  y = point[1] * scale[1]
  left, top, right, bottom = example.fields['box']
  inside = left <= x <= right and top <= y <= bottom
  return Outcome(OK, str(list(point)), {'accuracy': (float(inside), 1.0)})
