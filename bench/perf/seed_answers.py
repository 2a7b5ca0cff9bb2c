"""What the SEED scorer makes of files of real answers: unreadable, unequal to themselves, wrongly equal.

  python -m bench.perf.seed_answers --answers=FILE.json [--answers=MORE.jsonl …] [--pairs=25000] [--show=20]

A file is a table (JSON, JSON lines, CSV, Parquet) as test sets are published: its answers are one of COLUMNS, a text or
a list of texts, else the last box of one of SOLUTIONS; a column `kind` is optional. Only answers with LaTeX in them
count: a command, a power, a subscript, an equals sign or a bracket.
An answer counts as broken LaTeX when its braces or environments do not match or a backslash ends it, and as prose when
a dollar sign switches to text inside it, two words of three letters follow each other outside commands, a text command
holds three such words, or it has Chinese characters. A false 100 is for a reader to judge: pairs of different answers
at 100 are listed with the flags of their scores, since some of them are equal in value.
"""

import collections
import dataclasses
import random
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence

from bench.harness.rows import read_rows
from core.launch import command
from core.launch.fields import field
from rl.rewards.extract import last_box

_TEXT = re.compile(r'\\(?:text|textbf|textit|mathrm|mbox)\s*\{([^{}]*)\}')
_GROUP = r'\{(?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*\}'  # with groups of two more levels inside
_WHOLE_TEXT = rf'\\(?:text|textbf|textit|mathrm|mbox)\s*{_GROUP}'
_BRACKETS = {'(': r'\bigl(', ')': r'\bigr)'}


def _sized(text: str) -> str:
  r"""`text` with sizes before its brackets; not in words, which have none, nor in \( and \)."""
  if '$' in text:
    return text
  return re.sub(rf'{_WHOLE_TEXT}|\\.|[()]', lambda match: _BRACKETS.get(match[0], match[0]), text)


def _in_dollars(text: str) -> str:
  if '$' in text:  # a sentence, which has its own
    return text
  return f'${text}$'


# Spellings of the same value that no reader would call another answer.
REWRITINGS: dict[str, Callable[[str], str]] = {
  'dollars': _in_dollars,
  'thin space': lambda text: rf'\,{text}',
  'display fractions': lambda text: re.sub(r'\\[dt]?frac(?![A-Za-z])', r'\\dfrac', text),
  'sized brackets': _sized,
  'full stop': lambda text: f'{text}.',
}
CONSTANTS = ('0', '1', '-1', '2', r'\pi', r'\infty', r'-\infty', 'i', r'\infty-\infty', r'0\cdot\infty', r'\emptyset')

COLUMNS = ('answer', 'final_answer', 'final_answers', 'answer_latex', 'gt')
SOLUTIONS = ('solution', 'solutions')

Row = tuple[str, str]
"""(LaTeX text, kind of answer)."""


@dataclasses.dataclass(frozen=True)
class Options:
  """The program's flags."""

  answers: tuple[str, ...] = field((), 'table of answers', repeated=True)
  pairs: int = field(25_000, 'pairs of different answers to score', low=1)
  show: int = field(20, 'examples to print of each kind of fault', low=0)
  seed: int = field(0, 'seed of the drawn pairs', low=0)


def read_answers(paths: Sequence[str]) -> list[Row]:
  """Every distinct LaTeX answer of some tables, without dollar signs around it.

  An answer without a kind is an Equation if it has one equals sign. Raises ValueError for an unknown kind.
  """
  from bench.seed import KINDS

  answers = []
  for path in paths:
    for _, row in read_rows(path).rows:
      texts = [text for text in _texts(row) if _is_latex(text)]
      answers += [(text, row.get('kind') or _kind(text)) for text in texts]
  unknown = {kind for _, kind in answers} - set(KINDS)
  if unknown:
    raise ValueError(f'kind is {min(unknown)!r}, expected one of {", ".join(KINDS)}')
  return list(dict.fromkeys(answers))


def _texts(row: Mapping) -> list[str]:
  """The answers of a row: a cell of text, each text of a list, or the box of a solution."""
  cell = next((row[name] for name in COLUMNS if row.get(name)), None)
  if cell is None:
    solution = next((row[name] for name in SOLUTIONS if isinstance(row.get(name), str)), '')
    cell = last_box(solution)
  cells = cell if isinstance(cell, list) else [cell]
  return [_without_dollars(text) for text in cells if isinstance(text, str) and text.strip()]


def _without_dollars(text: str) -> str:
  text = text.strip()
  is_formula = text.startswith('$') and text.endswith('$') and text.strip('$').count('$') == 0
  if is_formula:
    return text.strip('$').strip()
  return text


def _is_latex(text: str) -> bool:
  return bool(re.search(r'[\\^_=(\[]', text))


def _kind(text: str) -> str:
  if text.count('=') == 1:
    return 'Equation'
  return 'Expression'


def broken(text: str) -> bool:
  """Whether braces or environments do not match: LaTeX itself would refuse the text."""
  depth = 0
  for sign in re.findall(r'\\.|[{}]', text, re.DOTALL):
    depth += (sign == '{') - (sign == '}')
    if depth < 0:
      return True
  if re.search(r'(?<!\\)(?:\\\\)*\\\s*$', text):  # a lone backslash at the end
    return True
  begun, ended = (sorted(re.findall(rf'\\{word}\{{([^}}]*)\}}', text)) for word in ('begin', 'end'))
  return depth != 0 or begun != ended


def prose(text: str) -> bool:
  """Whether the answer is sentences around formulas rather than one formula."""
  outside = re.sub(r'\\[A-Za-z]+(?:\s*\{[^{}]*\})?', ' \\\\ ', text.strip().strip('$'))
  sentences = [inside for inside in _TEXT.findall(text) if len(re.findall(r'[A-Za-z]{3,}', inside)) >= 3]
  is_chinese = bool(re.search(r'[\u4e00-\u9fff]', text))
  return bool('$' in outside or sentences or is_chinese or re.search(r'[A-Za-z]{3,}[,:.]?\s+[A-Za-z]{3,}', outside))


def unreadable(rows: Sequence[Row]) -> list[Row]:
  """The answers that cannot be read as a reference."""
  from bench.seed import score

  return [row for row in rows if 'reference' in score(row[0], '1', row[1]).flags]


def rewritten(rows: Sequence[Row]) -> Iterator[tuple[str, str, float]]:
  """(rewriting, answer, points) of every answer under every rewriting that changes it."""
  from bench.seed import score

  for name, rule in REWRITINGS.items():
    for text, kind in rows:
      if rule(text) != text:
        yield name, text, score(text, rule(text), kind).points


def alike(rows: Sequence[Row], count: int, seed: int) -> list[tuple[str, ...]]:
  """Those of `count` drawn pairs of different answers that score 100, and their flags; half are neighbours in order."""
  from bench.seed import score

  draw = random.Random(seed)
  ranked = sorted(rows)
  found = set()
  for number in range(count):
    first = draw.randrange(len(ranked) - 1)
    is_neighbour = number % 2 == 1
    second = first + 1 if is_neighbour else draw.randrange(len(ranked))
    reference, kind = ranked[first]
    prediction, _ = ranked[second]
    if reference == prediction:
      continue
    result = score(reference, prediction, kind)
    if result.points == 100:
      found.add((reference, prediction, *result.flags))
  return sorted(found)


def constants(rows: Sequence[Row]) -> list[tuple[str, ...]]:
  """(answer, constant, flags) of every other answer that a constant scores 100 against."""
  from bench.seed import score

  found = []
  for text, kind in rows:
    others = [constant for constant in CONSTANTS if constant != text.strip(' $')]
    results = [(constant, score(text, constant, kind)) for constant in others]
    found += [(text, constant, *result.flags) for constant, result in results if result.points == 100]
  return found


def _list(title: str, items: Sequence, show: int) -> None:
  print(title)
  for item in items[:show]:
    print(f'  {item!r}')


def work(options: Options) -> None:
  """Prints the figures and examples of each fault."""
  if not options.answers:
    raise ValueError('--answers is missing: expected a table of answers')
  rows = read_answers(options.answers)
  whole = [row for row in rows if not broken(row[0])]
  bad = unreadable(whole)
  title = f'{len(rows)} answers, {len(whole)} of whole LaTeX, {_share(bad, whole)} unreadable'
  _list(title, bad, options.show)
  formulas = [row for row in whole if not prose(row[0])]
  lost = [row for row in bad if not prose(row[0])]
  print(f'{len(formulas)} without prose, {_share(lost, formulas)} unreadable')
  skipped = set(bad)
  readable = [row for row in whole if row not in skipped]
  _list_rewritings(readable, options.show)
  _list('different answers at 100:', alike(readable, options.pairs, options.seed), options.show)
  _list('constants at 100:', constants(readable), options.show)


def _share(part: Sequence, whole: Sequence) -> str:
  """How many, and in percent of the whole."""
  percent = 100 * len(part) / max(1, len(whole))
  return f'{len(part)} ({percent:.2f} %)'


def _list_rewritings(rows: Sequence[Row], show: int) -> None:
  results = list(rewritten(rows))
  missed = [(name, text) for name, text, points in results if points != 100]
  counts = collections.Counter(name for name, _ in missed)
  _list(f'{len(results)} rewritings, {len(missed)} below 100: {dict(counts)}', missed, show)


def main(argv: Sequence[str]) -> int:
  """Runs the program; returns its exit status."""
  return command.run(argv, __doc__, Options, work)


if __name__ == '__main__':
  sys.exit(main(sys.argv))
