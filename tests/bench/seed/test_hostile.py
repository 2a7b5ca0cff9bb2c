"""Text written to hurt: nothing is executed, nothing runs away, nothing else is lost."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import bench.seed
from bench.seed import KINDS, Pool, score
from tests.bench.seed.test_pairs import own_pairs
from tests.watchdog import processor_seconds

PACKAGE = Path(bench.seed.__file__).parent
REFERENCE = r'\frac{\hbar^2 k^2}{2m}'
CODE = [
  '__import__("os").system("touch /tmp/hacked")',
  'open("/tmp/hacked","w")',
  'lambda: 0',
  '().__class__.__bases__',
  'eval("1+1")',
  'exec("x=1")',
  '[x for x in range(9)]',
  'breakpoint()',
  "';import os;'",
  '${7*7}',
  '{{7*7}}',
  'S.Naturals',
  'Symbol("x")',
  'Integer(1)/0',
  'eye(20000)',
  'zeros(9**9)',
  'Matrix(9999,9999)',
  'factorial(9**9)',
]
SHELLS = [
  '{}',
  r'\text{{{}}}',
  r'\mathrm{{{}}}',
  r'x_{{{}}}',
  r'\operatorname{{{}}}(x)',
  r'5\,\mathrm{{{}}}',
  r'\mathbf{{{}}}',
  r'\hat{{{}}}',
  r'1.5\times10^{{{}}}',
  r'\begin{{{}}}x\end{{{}}}',
  r'[{},1)',
  r'\ket{{{}}}',
]
# What is left of answers that are cut, or that hold nothing.
REMAINS = (
  '(',
  ']',
  '[ ',
  '( )',
  '{}',
  '&',
  ',',
  r'\quad',
  r'A\text{.}',
  r'A\text{ is}',
  r'\ce',
  r'\ce{->}',
  r'\pmod',
  r'a\bmod',
)
REMAINS += (
  r'\overset',
  r'\underset{a}',
  r'\stackrel{a}{',
  r'\cancelto{0}',
  r'\xrightarrow[',
  r'\substack{\\}',
  r'\text{ and }',
  '^0',
)
HUGE = {
  'tower': '9^{' * 100 + '9' + '}' * 100,
  'short tower': '9^{9^{9^{9}}}',
  'factorials': '(' * 20 + '9' + '!)' * 20,
  'digits': '1' * 5000,
  'exponent': '1' * 399 + '^{' + '9' * 399 + '}',
  'fractions': r'\frac{1}{1+' * 400 + 'x' + '}' * 400,
  'deep fractions': r'\frac{1}{1+' * 150 + 'x' + '}' * 150,
  'eye': 'eye(20000)',
  'brackets': '(' * 190 + 'x' + ')' * 190,
  'calls': 'f(' * 150 + 'x' + ')' * 150,
  'expansion': '(a+b+c+d)^{60}',
  'minus': '-' * 9000 + 'x',
  'bars': '|x' * 400,
  'scripts': 'x' + '_x' * 3000,
  'fonts': r'\mathrm{' * 300 + 'x' + '}' * 300,
  'megabyte': 'x' * 10**6,
  'derivatives': r'\frac{d}{d\frac{' * 90 + 'x+y' + '}{x}}' * 90,
  'integrals': r'\int a + ' * 100 + 'b',
  'sums': r'\sum_{n=0}^\infty ' * 180 + 'x',
  'functions': '+'.join(f'f(x+{k})' for k in range(300)),
  'binomial': r'\binom{10^{9}}{10^{8}}',
  'sine': r'\sin(10^{10^{6}})',
  'gamma': r'\Gamma(10^{8})',
  'prime': 'x' + "'" * 5000,
  'operators': r'(\hat A+\hat B)^{30}',
  'matrix power': r'\begin{pmatrix}a&b\\c&d\end{pmatrix}^{10^9}',
  'unit bomb': r'5\,\mathrm{m^{10^{10^{10}}}}',
  'unit tower': r'5\,\mathrm{((((m^9)^9)^9)^9)^9}',
  'unit digits': '1' * 800 + r'\,\mathrm{eV}',
  'unit exponent': r'1\times10^{999999999}\,\mathrm{m}',
  'unit words': r'5\,\mathrm{' + 'mm' * 3000 + '}',
  'zeta': r'\zeta(-10^{6}x)',
  'surrogate': '\ud800',
  'nul': 'x\x00',
}

_AUDIT = """
import sys
sys.path.insert(0, {root!r})
from tests.bench.seed.test_hostile import attack
from bench.seed import score
score('x+1', '1+x', 'Expression'), score('2 m', '3 s', 'Numeric')
seen = []
def hook(event, args):
  if event == 'open' and (set(str(args[1])) & set('wax+')):
    seen.append((event, args))
  elif event.split('.')[0] in ('subprocess', 'os', 'socket', 'pty', 'ctypes', 'shutil', 'urllib'):
    seen.append((event, args))
  elif event in ('compile', 'exec', 'code.__new__', 'import', 'pickle.find_class', 'marshal.loads'):
    seen.append((event, args))
sys.addaudithook(hook)
count = attack(score)
sys.stdout.write(str(count) + repr(seen[:5]))
"""


def attack(judge) -> int:
  """Every hostile text as every kind, on both sides; the number of pairs tried."""
  count = 0
  for shell in SHELLS:
    for code in CODE:
      text = shell.replace('{{', '{').replace('}}', '}').replace('{}', code)
      for kind in KINDS:
        judge(REFERENCE, text, kind)
        judge(text, f'{text}+1', kind)
        count += 2
  return count


def test_remains_of_answers_raise_nothing():
  for kind in KINDS:
    for text in REMAINS:
      assert score(text, rf'\,{text}', kind).points in (0, 100)
      assert score(REFERENCE, text, kind).points < 100


@pytest.mark.slow
def test_nothing_in_a_text_is_executed():
  root = str(Path(__file__).parents[3])
  done = subprocess.run(
    [sys.executable, '-c', _AUDIT.format(root=root)], capture_output=True, text=True, cwd=root, timeout=300, check=True
  )
  assert done.stdout == f'{len(SHELLS) * len(CODE) * len(KINDS) * 2}[]', done.stdout


def test_source_evaluates_no_text():
  banned = {
    'eval',
    'exec',
    'compile',
    'sympify',
    'parse_expr',
    'lambdify',
    'S',
    '__import__',
    'literal_eval',
    'parse_latex',
  }
  files = [*PACKAGE.rglob('*.py'), PACKAGE.parents[1] / 'rl/rewards/extract.py']
  assert len(files) > 15
  for file in files:
    if file.name == 'compat.py':
      continue
    for node in ast.walk(ast.parse(file.read_text(encoding='utf-8'))):
      if isinstance(node, ast.Call):
        name = getattr(node.func, 'id', getattr(node.func, 'attr', ''))
        harmless = name == 'compile' and getattr(getattr(node.func, 'value', None), 'id', '') == 're'
        assert name not in banned or harmless, (file.name, node.lineno, name)


@pytest.mark.slow
@pytest.mark.parametrize('name', HUGE)
def test_one_process_bounds_its_work(name):
  text = HUGE[name]
  pairs = [(REFERENCE, text, 'Expression'), (r'5\,\mathrm{m}', text, 'Numeric'), (text, text + ' +1', 'Expression')]
  for k, pair in enumerate(pairs):
    with processor_seconds(30):
      got = score(*pair)
    assert k or got.points < 100, got


def test_too_large_unless_identical():
  text = HUGE['fractions']
  assert score(REFERENCE, text, 'Expression').status == 'too_large'
  assert score(text, f' {text}', 'Expression').points == 100
  assert score(REFERENCE, HUGE['digits'], 'Expression').status == 'too_large'
  assert score(REFERENCE, HUGE['megabyte'], 'Expression').status == 'too_large'


@pytest.mark.slow
def test_the_pool_loses_nothing_else():
  ordinary = [(reference, prediction, kind) for kind, reference, prediction, *_ in own_pairs()][::12]
  hostile = [(REFERENCE, text, 'Expression') for text in HUGE.values()]
  mixed = [p for k, text in enumerate(hostile) for p in (text, ordinary[k % len(ordinary)])]
  with Pool(1, limit=15, memory=1 << 30) as pool:
    scores = pool.score_many(mixed)
    peak = re.search(r'VmHWM:\s+(\d+)', Path(f'/proc/{pool._workers[0].process.pid}/status').read_text())
  assert int(peak[1]) * 1024 < 1.2 * 2**30
  for (reference, prediction, kind), got in list(zip(mixed, scores))[1::2]:
    assert got == score(reference, prediction, kind)
  assert all(s.seconds < 60 for s in scores)
