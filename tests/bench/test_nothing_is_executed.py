"""Predictions, option lists and judge replies are data: no code of theirs is compiled, opened or started."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BUILTINS = {'eval', 'exec', 'compile', '__import__'}
# A measurement runs functions of a checkout that its user names, as an import of that package would.
MEANT = ['bench/perf/kit/theirs.py exec', 'bench/perf/kit/theirs.py compile']
READERS = {'sympify', 'parse_expr', 'lambdify', 'literal_eval', 'parse_units', 'parse_expression'}

SCRIPT = r"""
import re, sys
from bench import tasks
from bench.search import qa
from bench.harness import judge, literals
from bench.harness.task import Answer, Example
from bench.speech import speakers
from bench.unigenbench import judging
from bench.vlm.answers import judges, options
from bench.vlm.grounding import last_box
from bench.vlm.mathvista import normalised, quick_extract
from rl.rewards import answers, boxed, think_format

CODE = '__import__("os").system("touch /tmp/owned")'
HOSTILE = [
    CODE, f'[{CODE}]', f'[1, {CODE}]', f"['{CODE}', 1]", f'\\boxed{{{CODE}}}',
    f'\\text{{{CODE}}} + x', f'x_{{{CODE}}}', 'lambda: 0', 'open("/tmp/owned", "w")',
    f'\\mathrm{{{CODE}}}', f'\\operatorname{{eval}}({CODE})',
    f'<score>[{CODE}]</score>', f'<score>{CODE}</score>',
    f'<answer>{CODE}</answer>', f'{{"judgement": {CODE}}}',
    'exec("import socket")', '().__class__.__base__.__subclasses__()', '{0.__class__}', '${x}', '%(x)s',
    '{{ 7*7 }}',
    '[{"Start": 0, "End": 1, "Content": "' + CODE.replace('"', '\\"') + '"}]', 'f"{1}"', '`id`', '$(id)',
    '9**9**9']

def attempt(function, *args):
  try:
    function(*args)
  except (ValueError, TypeError, KeyError):
    pass

def everything():
  fields = {'choices': ('a', 'b'), 'kind': 'float', 'precision': 1, 'answer': 'a'}
  for text in HOSTILE:
    attempt(literals.read_list, text)
    attempt(answers.extract, text)
    attempt(answers.rational, text)
    attempt(boxed, text, text)
    attempt(think_format, text)
    attempt(qa.read_judgement, text)
    attempt(qa.final_answer, text)
    attempt(judges.read_option, text)
    attempt(judges.read_short_answer, text)
    attempt(judging.read_scores, text, 1)
    attempt(judging.read_scores, text, 2)
    attempt(judging.question, PROMPT, text)
    attempt(judge.Template(text).fill, {'x': text})
    attempt(options.mmmu_option, text, {'A': text, 'B': 'b'})
    attempt(options.vlmevalkit_option, text, {'A': text, 'B': 'b'})
    attempt(options.open_correct, text, [text])
    attempt(speakers.read_segments, text)
    attempt(last_box, text)
    for rule in ('official', 'vlmevalkit'):
      attempt(normalised, quick_extract(text, fields, rule), fields, rule)
    attempt(tasks.make, 'mmmu', [text, f'rule={text}'])
    try:
      answers.symbolically_equal(text, '1')
      answers.symbolically_equal('1', text)
    except Exception as error:
      print('symbolic', type(error).__name__)

from bench.unigenbench.prompts import Prompt
from bench.unigenbench.taxonomy import TEST_POINTS
PROMPT = Prompt(0, CODE, 'en', TEST_POINTS[:1], (CODE,), 'Art', 'Art: Other', 'Animal', 'descriptive')
answers.warm_up()
everything()

seen, watching = [], False
NUMBER = re.compile(r"[\d.eE+\-\s()'\",]*|(?:Integer|Float|Rational) ?\([\d.eE+\-'\" ,]*\)\s*")
STARTS = ('subprocess.', 'os.system', 'os.exec', 'os.spawn', 'os.posix_spawn', 'os.fork', 'socket.', 'import',
          'os.remove', 'os.rename', 'ctypes.', 'pty.')

def hook(event, args):
  if not watching:
    return
  if event == 'open':
    bad = isinstance(args[1], str) and set(args[1]) & set('wax+')
  elif event == 'compile':
    code = args[0].decode() if isinstance(args[0], bytes) else str(args[0])
    bad = not NUMBER.fullmatch(code)
  else:
    bad = event.startswith(STARTS)
  if bad:
    seen.append((event, args[0]))

sys.addaudithook(hook)
watching = True
everything()
watching = False
print('SEEN', seen)
"""


def seen_by_the_hook(script):
  done = subprocess.run([sys.executable, '-c', script], cwd=ROOT, capture_output=True, text=True, timeout=200)
  assert done.returncode == 0, done.stderr
  return done.stdout.splitlines()[-1].removeprefix('SEEN ')


@pytest.mark.slow
def test_an_audit_hook_sees_nothing():
  assert seen_by_the_hook(SCRIPT) == '[]'


@pytest.mark.slow
def test_the_hook_is_awake():
  caught = seen_by_the_hook(SCRIPT.replace('def everything():\n', 'def everything():\n  eval("[][:0]")\n  return\n', 1))
  assert caught == "[('compile', '[][:0]')]" or caught == "[('compile', b'[][:0]')]"


@pytest.mark.slow
def test_the_source_calls_nothing_that_executes_text():
  found = []
  files = sorted(path for folder in ('bench', 'rl') for path in (ROOT / folder).rglob('*.py'))
  for path in files:
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
      if isinstance(node, ast.Call):
        name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, 'attr', '')
        owner = getattr(getattr(node.func, 'value', None), 'id', '')
        # A method may be called `eval` (torch has one) or `compile` (re has one); the builtin may not be called.
        if name in READERS or (name in BUILTINS and (isinstance(node.func, ast.Name) or owner == 'builtins')):
          found.append(f'{path.relative_to(ROOT)} {name}')
  assert len(files) > 30 and found == MEANT
