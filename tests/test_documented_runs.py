"""Jobs that run from their defaults to the accuracy that the documentation states; several minutes each."""

import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
INTERVAL = re.compile(r'([\d.]+) % \(([\d.]+) ?(?:to|–) ?[\d.]+\)')
# Program, the page with its figures, and the head of the column that holds the accuracy after training.
RUNS = [
  ('rl.train', 'docs/rl.md', 'after reinforcement learning'),
  ('agents.train', 'docs/agents.md', 'after GRPO-RoC'),
]


def documented(page: str, head: str) -> list[tuple[float, float, float]]:
  """(accuracy before, after, lower end of the interval after) in percent, for each seed of a page's table."""
  lines = (ROOT / page).read_text(encoding='utf-8').splitlines()
  start = next(i for i, line in enumerate(lines) if line.startswith('| seed |') and f'| {head}' in line)
  cells = [cell.strip() for cell in lines[start].strip('|').split('|')]
  column = next(i for i, cell in enumerate(cells) if cell.startswith(head))
  found = []
  for line in lines[start + 2 : start + 5]:
    row = line.strip('|').split('|')
    (before, _), (after, lowest) = INTERVAL.search(row[1]).groups(), INTERVAL.search(row[column]).groups()
    found.append((float(before), float(after), float(lowest)))
  return found


@pytest.mark.parametrize('program,page,head', RUNS)
def test_the_documented_gains_are_far_beyond_their_intervals(program, page, head):
  figures = documented(page, head)
  assert len(figures) == 3 and all(before + 20 < lowest < after for before, after, lowest in figures)


def test_the_readme_agrees_with_the_page():
  readme = (ROOT / 'README.md').read_text(encoding='utf-8')
  before, after = map(float, re.search(r'from about (\d+) to (\d+) % of held-out', readme).groups())
  figures = documented(*RUNS[0][1:])
  assert before == round(sum(f[0] for f in figures) / 3)
  assert after == round(sum(f[1] for f in figures) / 3)


@pytest.mark.long
@pytest.mark.parametrize('program,page,head', RUNS)
def test_the_default_job_reaches_its_documented_accuracy(program, page, head, tmp_path):
  """Above the lowest of the documented intervals: machines differ in the last bits, and so do the runs they give."""
  # As a user runs it: the tests' quick compilation makes slower programs.
  environment = {name: value for name, value in os.environ.items() if name != 'XLA_FLAGS'}
  command = [sys.executable, '-m', program, f'--workdir={tmp_path}']
  subprocess.run(command, cwd=ROOT, env=environment, check=True, timeout=4 * 3600)
  results = json.loads((tmp_path / 'results.json').read_text())
  figures = documented(page, head)
  before, after = (100 * results[when]['accuracy'] for when in ('before', 'after'))
  assert after >= min(lowest for _, _, lowest in figures)
  assert after - before >= min(was_after - was_before for was_before, was_after, _ in figures) - 10
