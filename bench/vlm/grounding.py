"""Grounding: the box of a named thing, as RefCOCO counts it (right from an overlap of 0.5)."""

import functools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.harness.rows import RowError, load_examples, need, row_id
from bench.harness.task import NO_ANSWER, OK, Answer, Data, Example, Outcome, Sampling, Task, each, user_message
from bench.vlm.pictures import folder_of, picture_of, picture_part
from rl.rewards.extract import conclusion

PROMPT = 'Give the bounding box of the region this sentence describes: <ref>{}</ref>'
UNITS = ('thousandths', 'unit', 'pixels')
_NUMBER = r'\s*(-?\d{1,7}(?:\.\d{1,12})?)\s*'
_BOX = re.compile(rf'[\[(]{_NUMBER},{_NUMBER},{_NUMBER},{_NUMBER}[\])]')

Box = tuple[float, float, float, float]


def iou(a: Sequence[float], b: Sequence[float]) -> float:
  """Intersection over union of two boxes (x1, y1, x2, y2). An empty or inverted box overlaps nothing."""
  width = min(a[2], b[2]) - max(a[0], b[0])
  height = min(a[3], b[3]) - max(a[1], b[1])
  area = lambda box: max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])
  if width <= 0 or height <= 0 or not area(a) or not area(b):
    return 0.0
  return width * height / (area(a) + area(b) - width * height)


def last_box(text: str) -> Box | None:
  """The last four bracketed numbers of a text, as InternVL writes boxes: [[x1, y1, x2, y2]]."""
  found = _BOX.findall(text)
  if found:
    return tuple(map(float, found[-1]))
  return None


def grounding(*, unit: str = 'thousandths', threshold: float = 0.5) -> Task:
  """Grounding. unit: how the model writes boxes (thousandths of the picture, unit square, pixels)."""
  if unit not in UNITS:
    raise ValueError(f'unit is {unit!r}, expected one of {", ".join(UNITS)}')
  return Task(
    name='grounding',
    primary='accuracy',
    template=PROMPT,
    load=_load,
    prompt=_prompt,
    score=each(functools.partial(_score, unit=unit, threshold=threshold)),
    sampling=Sampling(max_tokens=256),
    settings={'unit': unit, 'threshold': threshold},
    group_metrics=('accuracy', 'iou'),
  )


def _load(path: str) -> Data:
  return load_examples(path, functools.partial(_example, folder=folder_of(path)))


def _example(where: str, row: Mapping, *, folder: Path) -> Example:
  box = row.get('bbox') or row.get('box')
  if not isinstance(box, list) or len(box) != 4 or not all(isinstance(v, (int, float)) for v in box):
    raise RowError('bbox is not four numbers [x1, y1, x2, y2]')
  width = need(row, 'width', (int, float))
  height = need(row, 'height', (int, float))
  if width <= 0 or height <= 0:
    raise RowError(f'picture of {width} x {height}')
  text = next((row[f] for f in ('expression', 'sent', 'text') if isinstance(row.get(f), str)), None)
  if text is None:
    raise RowError('missing:expression')
  return Example(
    row_id(row, where),
    {'expression': text, 'box': box, 'size': (width, height), 'picture': picture_of(row, folder)},
    {'split': str(row.get('split') or 'all')},
  )


def _prompt(example: Example) -> list[dict]:
  picture = []
  if example.fields['picture']:
    picture = [picture_part(example.fields['picture'])]
  return user_message(*picture, PROMPT.format(example.fields['expression']))


def _score(example: Example, answer: Answer, *, unit: str, threshold: float) -> Outcome:
  box = last_box(conclusion(answer.text))
  if box is None:
    return Outcome(NO_ANSWER, None, {'accuracy': (0.0, 1.0), 'iou': (0.0, 1.0)})
  width, height = example.fields['size']
  scales = {'thousandths': (width / 1000, height / 1000), 'unit': (width, height), 'pixels': (1, 1)}
  x, y = scales[unit]
  left, top, right, bottom = box
  in_pixels = (left * x, top * y, right * x, bottom * y)
  overlap = iou(in_pixels, example.fields['box'])
  hit = float(overlap >= threshold)
  return Outcome(OK, str(list(box)), {'accuracy': (hit, 1.0), 'iou': (overlap, 1.0)})
