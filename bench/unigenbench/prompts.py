"""The prompt files: one row a prompt, its test points in a JSON cell."""

import dataclasses
import re
from collections.abc import Mapping

from bench.harness.rows import RowError, need, read_rows
from bench.harness.task import Problem
from bench.unigenbench.taxonomy import BY_NAME, SUBJECTS, THEMES, TestPoint, sub_theme
from core.text import clean, parse_json

_KEYS = {
  'en': (
    'Primary Categories',
    'Secondary Categories',
    'Subjects',
    'Sentence Structure',
    'Testpoints',
    'Testpoint Description',
  ),
  'zh': ('一级垂类', '二级垂类', '主体', '句式', '考点', '考点对应描述'),
}
# A text that ends and another that begins with nothing between them: only a comma can be missing there.
_MISSING_COMMA = re.compile(r'("(?:[^"\\]|\\.)*")(\s+)(?=")', re.DOTALL)


@dataclasses.dataclass(frozen=True)
class Prompt:
  """A prompt with its test points in order (one may occur twice) and the phrase that each refers to."""

  index: int
  text: str
  language: str
  points: tuple[TestPoint, ...]
  phrases: tuple[str, ...]
  theme: str
  sub_theme: str
  subject: str
  structure: str


@dataclasses.dataclass(frozen=True)
class PromptSet:
  """The prompts of one file, with the rows that were skipped and those that were repaired."""

  prompts: tuple[Prompt, ...]
  read: int
  files: Mapping[str, str]
  skipped: tuple[Problem, ...]
  repaired: tuple[Problem, ...]


def load(path: str) -> PromptSet:
  """The prompts of a CSV file.

  A row that cannot be used is skipped, one with a missing comma is repaired; both are reported.
  """
  rows = read_rows(path)
  prompts: dict[int, Prompt] = {}
  skipped = list(rows.skipped)
  repaired = list(rows.repaired)
  for where, row in rows.rows:
    try:
      prompt, is_repaired = _prompt(row)
      if prompt.index in prompts:
        raise RowError('duplicate_id')
    except RowError as error:
      skipped.append(Problem(where, str(error)))
      continue
    prompts[prompt.index] = prompt
    if is_repaired:
      repaired.append(Problem(f'index {prompt.index}', 'missing comma between two texts of a list'))
  return PromptSet(tuple(prompts.values()), rows.read, rows.files, tuple(skipped), tuple(repaired))


def _prompt(row: Mapping) -> tuple[Prompt, bool]:
  language = 'zh' if 'prompt_zh' in row else 'en'
  index = need(row, 'index', (str, int))
  if not str(index).isdigit() or len(str(index)) > 9:
    raise RowError(f'index is {str(index)[:20]!r}')
  # The public description names the columns without their language.
  text = need(row, f'prompt_{language}' if f'prompt_{language}' in row else 'prompt')
  cell = need(row, f'sub_dims_{language}' if f'sub_dims_{language}' in row else 'sub_dims')
  value, is_repaired = _read_cell(cell)
  theme, second, subject, structure, names, phrases = (value.get(key) for key in _KEYS[language])
  if not isinstance(names, list) or not names or not isinstance(phrases, list) or len(names) != len(phrases):
    raise RowError('test points and phrases do not match')
  unknown = [name for name in names if name not in BY_NAME]
  if unknown:
    raise RowError(f'unknown test point {str(unknown[0])[:40]!r}')
  theme = THEMES.get(str(theme), str(theme))
  structure = 'imperative' if str(structure).lower().startswith(('imperative', '指令')) else 'descriptive'
  return Prompt(
    int(index),
    text,
    language,
    tuple(BY_NAME[name] for name in names),
    tuple(clean(str(phrase)) for phrase in phrases),
    theme,
    sub_theme(theme, str(second)),
    SUBJECTS.get(str(subject), str(subject)),
    structure,
  ), is_repaired


def _read_cell(cell: str) -> tuple[dict, bool]:
  """The JSON object of a cell, and whether a missing comma was inserted (the only fault that is repaired)."""
  repaired = _MISSING_COMMA.sub(r'\1,\2', cell)
  for text, is_repaired in ((cell, False), (repaired, True)):
    try:
      value = parse_json(text)
    except ValueError:
      continue
    if isinstance(value, dict):
      return value, is_repaired
  raise RowError('the cell is not a JSON object')
