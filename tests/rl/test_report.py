"""The report of a run: counts by question, a curve of one set of questions, and what was run."""

import json
import re

from PIL import Image

from rl import report
from rl.evaluate import Result
from rl.query import Query

QUESTIONS = ('Sum?', 'Larger?')


def result(right: list[int]) -> Result:
  """Answers to two kinds of question in turn."""
  image = Image.new('RGB', (32, 16))
  asked = [QUESTIONS[i % 2] for i in range(len(right))]
  queries = [Query([{'role': 'user', 'content': f'<image>\n{text}'}], [image], answer='7') for text in asked]
  return Result(queries, ['7' if r else '3' for r in right], right)


BEFORE, AFTER = result([1, 0, 0, 0] * 10), result([1, 1, 1, 0] * 10)


def lines(folder, **more) -> None:
  """Writes metrics of three rollouts, the second with a look at eight held-out questions."""
  rows = [{'step': n, 'reward': n / 4, **more} for n in (1, 2, 3)]
  rows[1]['heldout_accuracy'] = 0.5
  (folder / 'metrics.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))


def test_the_page_counts_by_question_and_says_what_was_run(tmp_path):
  lines(tmp_path, entropy=0.5, response_length=3.0)
  run = [('command', 'python -m rl.train --config="<script>"'), ('seed', '3')]
  page = report.write(tmp_path, BEFORE, AFTER, run=run).read_text()
  assert re.search(r'Larger\?</td>\s*<td class="n">0 of 20 \(0.0 %\)</td>', page)
  assert re.search(r'Sum\?</td>\s*<td class="n">10 of 20 \(50.0 %\)</td>.*20 of 20', page, re.DOTALL)
  assert 'rl.train' in page and '<script>' not in page
  assert page.count('class="shown"') == 2 * 36  # images large enough to read, as many as `Page.shown`


def test_many_different_questions_are_not_counted_one_by_one(tmp_path):
  lines(tmp_path)
  many = Result([Query([{'role': 'user', 'content': str(i)}], answer='1') for i in range(40)], ['1'] * 40, [1] * 40)
  assert '% )' not in report.write(tmp_path, many, many).read_text()
  assert report._kinds([('before', many), ('after', many)]) == ''


def test_the_held_out_curve_is_of_one_set_of_questions(tmp_path, monkeypatch):
  """Its first point is of the questions that are looked at while it trains, not of all."""
  drawn = {}
  monkeypatch.setattr(report.charts, 'curve', lambda axis, x, y, *, label, **_: drawn.update({label: (x, y)}))
  lines(tmp_path, entropy=0.5, response_length=3.0)
  report.plot(tmp_path, BEFORE, AFTER, glance=8)
  assert drawn['held-out accuracy, 8 questions'] == ((0, 2), (0.25, 0.5))
  assert drawn['length of a response'] == ([1, 2, 3], [3.0] * 3)
  assert drawn['entropy of a token'][1] == [0.5] * 3
