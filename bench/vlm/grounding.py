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
_NUMBERS = (int, float)
_NUMBER = r'\s*(-?\d{1,7}(?:\.\d{1,12})?)\s*'
_BOX = re.compile(rf'[\[(]{_NUMBER},{_NUMBER},{_NUMBER},{_NUMBER}[\])]')

Box = tuple[float, float, float, float]


def iou(a: Sequence[float], b: Sequence[float]) -> float:
  """Intersection over union of two boxes (x1, y1, x2, y2). An empty or inverted box overlaps nothing."""
  left, top = map(max, a[:2], b[:2])
  right, bottom = map(min, a[2:], b[2:])
  shared = area((left, top, right, bottom))
  if not shared or not area(a) or not area(b):
    return 0.0
  return shared / (area(a) + area(b) - shared)


def area(box: Sequence[float]) -> float:
  """Of a box (x1, y1, x2, y2); 0 of an empty or inverted one."""
  left, top, right, bottom = box
  width = max(0.0, right - left)
  height = max(0.0, bottom - top)
  return width * height


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
  width = need(row, 'width', _NUMBERS)
  height = need(row, 'height', _NUMBERS)
  if width <= 0 or height <= 0:
    raise RowError(f'picture of {width} x {height}')
  fields = {
    'expression': _expression(row),
    'box': _given_box(row),
    'size': (width, height),
    'picture': picture_of(row, folder),
  }
  split = row.get('split') or 'all'
  return Example(row_id(row, where), fields, {'split': str(split)})


def _given_box(row: Mapping) -> list[float]:
  """The right box of a row. Raises RowError unless it is four numbers."""
  box = row.get('bbox') or row.get('box')
  is_box = isinstance(box, list) and len(box) == 4
  if not is_box or not all(isinstance(number, _NUMBERS) for number in box):
    raise RowError('bbox is not four numbers [x1, y1, x2, y2]')
  return box


def _expression(row: Mapping) -> str:
  """What a row asks for. Raises RowError where no field has it."""
  for name in ('expression', 'sent', 'text'):
    text = row.get(name)
    if isinstance(text, str):
      return text
  raise RowError('missing:expression')


def _prompt(example: Example) -> list[dict]:
  picture = []
  if example.fields['picture']:
    picture = [picture_part(example.fields['picture'])]
  return user_message(*picture, PROMPT.format(example.fields['expression']))


def _score(example: Example, answer: Answer, *, unit: str, threshold: float) -> Outcome:
  box = last_box(conclusion(answer.text))
  if box is None:
    return Outcome(NO_ANSWER, None, {'accuracy': (0.0, 1.0), 'iou': (0.0, 1.0)})
  in_pixels = _in_pixels(box, example.fields['size'], unit)
  overlap = iou(in_pixels, example.fields['box'])
  hit = float(overlap >= threshold)
  return Outcome(OK, str(list(box)), {'accuracy': (hit, 1.0), 'iou': (overlap, 1.0)})


def _in_pixels(box: Box, size: tuple[float, float], unit: str) -> Box:
  """A box in the model's unit, in pixels of a picture of (width, height)."""
  width, height = size
  scales = {
    'thousandths': (width / 1000, height / 1000),
    'unit': (width, height),
    'pixels': (1, 1),
  }
  x, y = scales[unit]
  left, top, right, bottom = box
  return left * x, top * y, right * x, bottom * y
