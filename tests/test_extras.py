"""Programs start without the packages of any extra; what they need later, they name."""

import ast
import functools
import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

from core.launch import extras
from tests.test_commands import PROGRAMS

ROOT = pathlib.Path(__file__).resolve().parent.parent


def file_of(module: str) -> pathlib.Path | None:
  """The file that Python runs when it imports a module of ours."""
  path = ROOT.joinpath(*module.split('.'))
  candidates = (path / '__init__.py', path.with_suffix('.py'))
  return next((file for file in candidates if file.is_file()), None)


@functools.cache
def imported(path: pathlib.Path) -> frozenset[str]:
  """The dotted names that a file imports when it is run, each with the packages around it."""
  names = set()
  waiting = list(ast.parse(path.read_text(encoding='utf-8')).body)
  while waiting:
    node = waiting.pop()
    if isinstance(node, ast.Import):
      names |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      names |= {node.module} | {f'{node.module}.{alias.name}' for alias in node.names}
    elif isinstance(node, ast.If | ast.Try | ast.With) and 'TYPE_CHECKING' not in ast.dump(node):
      waiting += [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt)]
  parts = [name.split('.') for name in names]
  return frozenset('.'.join(p[:n]) for p in parts for n in range(1, len(p) + 1))


def loaded(program: str) -> dict[str, str]:
  """Name → the file that imports it, of everything that is imported before a program reads its command line."""
  main = ROOT.joinpath(*program.split('.'), '__main__.py')
  start = main if main.is_file() else file_of(program)
  found = {}
  waiting = [start, *(file_of(program.rsplit('.', n)[0]) for n in range(1, program.count('.') + 1))]
  while waiting:
    path = waiting.pop()
    for name in imported(path) - found.keys():
      found[name] = str(path.relative_to(ROOT))
      if file := file_of(name):
        waiting.append(file)
  return found


@pytest.mark.parametrize('program', PROGRAMS)
def test_a_program_reads_its_command_line_without_any_extra(program):
  """So that `--help` works, and that `errors.exit_status` is there to name the extra of what is missing later."""
  early = {name: file for name, file in loaded(program).items() if name in extras.MODULES}
  assert not early


# What a user may ask for with only the base package: a program with flags that it accepts → the extra that it names.
ASKED = {
  'agents.mcp.servers.crawl': 'agents',
  'agents.mcp.servers.documents --root=.': 'agents',
  'agents.mcp.servers.python': 'agents',
  'agents.mcp.servers.search --corpus=corpus.jsonl': 'agents',
  'agents.serve_tools --port=0': 'agents',
  'agents.train --config=smoke --workdir=run': 'agents',
  'bench.agent --data=corpus.jsonl --model=http://127.0.0.1:9/v1 --tools=python': 'agents',
  'bench.perf.sandbox --seconds=1': 'agents',
  'bench.perf.seed --seconds=1': 'bench',
  'bench.perf.tools --seconds=1': 'bench',
}
WITHOUT = """
import importlib.machinery, json, runpy, sys
from core.launch import extras
HIDDEN = extras.MODULES.keys() - {'httpx'}  # which transformers brings
PathFinder = importlib.machinery.PathFinder
find_spec = PathFinder.find_spec
PathFinder.find_spec = lambda name, *more: None if name.split('.')[0] in HIDDEN else find_spec(name, *more)
for line in json.load(sys.stdin):
  sys.argv = line.split()
  print('>', line, file=sys.stderr, flush=True)
  try:
    runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)
  except SystemExit as end:
    print('status', end.code, file=sys.stderr, flush=True)
"""


@pytest.mark.slow
def test_a_missing_package_is_one_line_that_names_the_extra(tmp_path):
  (tmp_path / 'corpus.jsonl').write_text('{"question": "?", "ground_truth": "!", "text": "words"}\n')
  lines = json.dumps(list(ASKED))
  environment = os.environ | {'PYTHONPATH': str(ROOT), 'JAX_PLATFORMS': 'cpu'}
  done = subprocess.run(
    [sys.executable, '-c', WITHOUT],
    input=lines,
    cwd=tmp_path,
    env=environment,
    capture_output=True,
    text=True,
    check=False,
    timeout=300,
  )
  said = re.findall(r'^> (.*)\n((?:.*\n)*?)status 1$', done.stderr, re.MULTILINE)
  assert [line for line, _ in said] == list(ASKED), done.stderr
  for line, text in said:
    errors = [row for row in text.splitlines() if not row.startswith('I')]  # a job logs its devices first
    assert len(errors) == 1 and errors[0].endswith(f"pip install -e '.[{ASKED[line]}]'"), (line, text)
