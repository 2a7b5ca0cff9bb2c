"""Every command of README and docs: its flags are parsed by the program itself, and the quick ones run as written.

`COMMANDS` is read from the pages, so a command that is added there is tested. A command runs (make long)
if `RUNS` lists it; the others are only parsed, for the reason that `PARSED` gives for their program.
"""

import itertools
import os
import pathlib
import re
import runpy
import shlex
import shutil
import subprocess
import sys

import pytest

from core.launch import origin
from tests.test_commands import PROGRAMS

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGES = [ROOT / 'README.md', *sorted((ROOT / 'docs').glob('*.md'))]
START = re.compile(r'(?:\.venv/bin/)?python3? -m ((?:[a-z_0-9]+\.)*[a-z_0-9]+)')
# Stand-ins for what a page leaves open, where a program refuses the dots.
OPEN = {
  '--topology=…': '--topology=v5e:2x2',
  '--config=…': '--config=tiny',
  '--first=…': '--first=0',
  '--seeds=…': '--seeds=1',
  '--family=…': '--family=aligned',
  '--task=…': '--task=aime',
  '--out=…': '--out=out.wav',
  '--model=URL': '--model=http://127.0.0.1:8000/v1',
  '--judge=URL': '--judge=http://127.0.0.1:8000/v1',
  '--runs=runs/hacked': '--runs=.',
}
# Programs that pages name without the arguments that they need.
MENTIONS = (
  'python -m bench.agent',
  'python -m bench.run --task=unigenbench',
  'python -m bench.unigenbench.images',
  'python -m core.files.convert',
  'python -m interp.report',
)
# Forms, of which a reader fills in a part that decides how the rest is read.
FORMS = ('core.plan --program=…',)
ASKS = '--feedback=ask'  # needs a terminal
SHOWN = 'runs/tiny/digits/heldout/000000.png'
TINY = ('--config.steps=2', '--config.save_every=2')
QUICK_RL = ('--config.steps=1', '--config.warmup.steps=2', '--config.eval_queries=8', '--config.optim.warmup_steps=0')
QUICK_FLOW = (
  '--config.steps=1',
  '--config.pretraining.steps=2',
  '--config.pretraining.optim.warmup_steps=0',
  '--config.eval_queries=8',
)
QUICK_SPEECH = ('--config.steps=2', '--config.optim.warmup_steps=0')
WORDS = '--config=tiny-semantic --config.model=runs/acoustic/model --workdir=runs/words'
SPOKEN = '--model=runs/digits/model --data=runs/digits/data/heldout.jsonl --out=runs/spoken --clips=60'
ON_TINY = (
  '--config.model=runs/tiny/model --config.steps=40 {}--config.data=runs/tiny/digits/train.jsonl '
  '--config.heldout=runs/tiny/digits/heldout.jsonl'
)

# Commands as the pages have them, in an order in which each finds what earlier ones left, with flags that make the run
# short. All run in one folder, those of VibeVoice in another, since pages use some names twice.
RUNS: dict[str, tuple[str, ...]] = {
  'python -m internvl.train --workdir=runs/tiny': TINY,
  f"python -m internvl.chat --model=runs/tiny --image={SHOWN} --prompt='What is the sum?'": (),
  'python -m rl.train --workdir=runs/digits': QUICK_RL,
  f'python -m internvl.train --workdir=runs/more {ON_TINY.format("")}': TINY,
  f'python -m internvl.train --workdir=runs/lora {ON_TINY.format("--config.lora.rank=4 ")}': TINY,
  "python -m internvl.chat --model=runs/digits --image=runs/digits/samples/0.png --prompt='Larger?'": (),
  'python -m agents.train --workdir=runs/tools': ('--config=smoke',),
  'python -m rl.train --config=flow_smoke --workdir=runs/smoke': (),
  'python -m rl.train --config=treepo --workdir=runs/treepo': QUICK_RL,
  'python -m rl.train --config=svs --workdir=runs/svs': QUICK_RL,
  'python -m rl.train --config=vision_sr1 --workdir=runs/vision_sr1': QUICK_RL,
  'python -m rl.train --config=expressions --workdir=runs/gspo': QUICK_RL,
  'python -m rl.train --config=cascade --workdir=runs/cascade': (
    *QUICK_RL,
    '--config.warmup.steps=60',  # a pair needs a right response, and a wrong one to the same query
    '--config.offline.queries=64',
    '--config.offline.phase.steps=2',
    '--config.offline.phase.optim.warmup_steps=0',
  ),
  'python -m rl.train --config=pref_grpo --workdir=runs/pref': QUICK_FLOW,
  'python -m rl.train --config=flow_grpo --workdir=runs/score': QUICK_FLOW,
  'python -m vibevoice.train_tokenizer --workdir=runs/acoustic': QUICK_SPEECH,
  f'python -m vibevoice.train_tokenizer {WORDS}': QUICK_SPEECH,
  'python -m vibevoice.train --config=tiny --config.model=runs/words/model --workdir=runs/digits': QUICK_SPEECH,
  f'python -m vibevoice.compare {SPOKEN}': ('--clips=2',),
  'python -m core.plan --program=internvl.plan.vision --config=241b --topology=v5p:2x2x1': ('--help',),
  'python -m bench.perf.sandbox': ('--seconds=0.5',),
  'python -m bench.perf.tools': ('--seconds=2', '--clients=50'),
  'python -m bench.perf.engine_host': ('--help',),
  'python -m bench.perf.serve --part=timers': (),
  'python -m bench.run --help': (),
  'python -m agents.train --help': (),
  'python -m internvl.chat --help': (),
  'python -m internvl.train --help': (),
  'python -m rl.train --help': (),
}
# Servers as the pages have them, which run until they have said where they listen; FOLDER is what the flags name.
SERVED: dict[str, tuple[str, ...]] = {
  'python -m agents.serve_tools --workers=16 --port=8765': ('--port=0', '--workers=1'),
  'python -m agents.serve_tools --workers=16 --uds=/run/tools.sock': ('--uds=tools.sock', '--workers=1'),
  'python -m internvl.serve --model=FOLDER': ('--model=runs/tiny/model', '--port=0'),
  'python -m internvl.serve --model=FOLDER --vision=separate --vision_device=8': (
    '--model=runs/tiny/model',
    '--port=0',
    '--vision_device=0',
  ),
  'python -m core.serve --model=FOLDER': ('--model=runs/tools/model', '--port=0'),
  'python -m vibevoice.serve --model=FOLDER --voices=FOLDER_OF_RECORDINGS --rows=4': (
    '--model=runs/digits/model',
    '--voices=runs/digits/data',
    '--port=0',
  ),
}
# Why a program's commands are parsed and not run.
PARSED = {
  'agents.memory': 'needs a case bank; tests/agents/memory runs it on one',
  'agents.run': 'needs a model server; tests/agents/test_run.py runs it against a scripted one',
  'agents.serve_tools': 'serves until it is told to end; tests/agents/service runs it',
  'agents.train': 'minutes; the shortest one runs, tests of make long run the others',
  'bench.agent': 'needs a model server; tests/bench runs it against a scripted one',
  'bench.compare': 'needs two finished runs; tests/bench makes them',
  'bench.memory': 'minutes',
  'bench.perf': 'a measurement of minutes; its numbers are in docs/performance.md',
  'bench.predictions': 'needs a finished run; tests/bench makes one',
  'bench.pref_grpo': 'the study takes hours, and the figures need its runs',
  'bench.recipes': 'the studies take half an hour each, and the figures need their runs',
  'bench.run': 'needs the data of a benchmark; tests/bench runs it on made data',
  'bench.speech': 'needs recordings and a Whisper',
  'bench.table': 'needs finished runs; tests/bench makes them',
  'bench.unigenbench.digits': 'needs a finished run; tests/bench makes one',
  'bench.vico': 'an hour',
  'core.files.convert': 'needs a GGUF file; tests/core/files makes one',
  'core.plan': 'compiles for minutes; tests/core/test_plan.py and make long compile',
  'core.serve': 'serves until it is told to end; tests/core/serving runs it',
  'internvl': 'needs published weights, or is a variant of a command that runs',
  'interp': 'needs published weights and recordings; make real runs it',
  'rl.flow.generate': 'needs published weights; tests/rl/flow runs it on tiny ones',
  'rl.mpo': 'needs preference data; tests/rl runs it on made data',
  'rl.rollout.tree.sample': 'needs a checkpoint; tests/rl runs it on a tiny one',
  'rl.train': 'minutes to hours; tests/rl/test_train.py and make long run the configs',
  'vibevoice': 'needs published weights or recordings; tests/vibevoice runs each on tiny ones',
}


def commands() -> list[str]:
  """The commands of our programs in the pages, without comments and optional parts, each once, sorted."""
  found = set()
  for page in PAGES:
    fenced, prose = split(page.read_text(encoding='utf-8').replace('\\\n', ' '))
    for code in (*fenced, *re.findall(r'`([^`]+)`', ' '.join(prose))):
      if match := START.search(code):
        found.add(plain(code[match.start() :]))
  return sorted(found - {'', *MENTIONS})


def split(text: str) -> tuple[list[str], list[str]]:
  """The lines of a page inside and outside of blocks of code."""
  fenced, prose = [], []
  lines = prose
  for line in text.splitlines():
    if line.startswith('```'):
      lines = fenced if lines is prose else prose
    elif line.startswith('    python'):
      fenced.append(line)
    else:
      lines.append(line)
  return fenced, prose


def plain(command: str) -> str:
  """The command itself: without a comment, a shell's redirection and optional flags; empty for other programs."""
  command = re.sub(r'\s\[[^\]]*\]', '', command)
  words = shlex.split(re.split(r'\s[|>&]', command)[0], comments=True)
  name = words[2] if len(words) > 2 else ''
  known = name in PROGRAMS or any(name.startswith(f'{program}.') for program in ('bench.speech',))
  return ' '.join(['python', *map(shlex.quote, words[1:])]) if known else ''


COMMANDS = commands()
RUN = {plain(command): more for command, more in RUNS.items()}


class Parsed(BaseException):
  """The command line was accepted."""


@pytest.fixture
def parse(monkeypatch, capsys):
  """Starts a program and stops it where it has accepted its command line: the exit status and standard error if not."""
  monkeypatch.setattr(os, 'environ', os.environ.copy())

  def accepted() -> None:
    raise Parsed

  def parse(words: list[str]) -> tuple[object, str]:
    monkeypatch.setattr(origin, 'check', accepted)
    monkeypatch.setattr(sys, 'argv', words)
    try:
      runpy.run_module(words[0], run_name='__main__', alter_sys=True)
    except Parsed:
      return None, ''
    except SystemExit as ended:
      return ended.code, capsys.readouterr().err
    return 'did not end', ''

  return parse


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore:.*found in sys.modules:RuntimeWarning')
def test_the_programs_accept_every_documented_command(parse):
  """In one test, because most commands share a program and its imports."""
  refused = {}
  for command in COMMANDS:
    words = [OPEN.get(word, word) for word in shlex.split(command)[2:] if word not in ('…', ASKS)]
    if any(' '.join(words).startswith(form) for form in FORMS):
      continue
    status, error = parse(words)
    if status not in (None, 0):
      refused[command] = error
  assert not refused, '\n'.join(f'{command}\n  {error}' for command, error in refused.items())


def test_every_command_runs_or_has_a_reason():
  assert len(COMMANDS) > 80
  without = [c for c in COMMANDS if c not in RUN | SERVED and not any(_is_of(c, program) for program in PARSED)]
  assert not without
  assert not (set(RUN) | set(SERVED)) - set(COMMANDS), 'commands that no page has'
  assert not [program for program in PARSED if not any(_is_of(command, program) for command in COMMANDS)]


def _is_of(command: str, program: str) -> bool:
  name = shlex.split(command)[2]
  return name == program or name.startswith(f'{program}.')


def folder_of(command: str, base: pathlib.Path) -> pathlib.Path:
  """Where a command runs."""
  folder = base / 'speech' if _is_of(command, 'vibevoice') else base
  folder.mkdir(exist_ok=True)
  return folder


def _serve(words: list[str], folder: pathlib.Path, environment: dict[str, str]) -> None:
  """Starts a server, waits until it says where it listens, and ends it."""
  with subprocess.Popen(
    words, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
  ) as process:
    lines = list(itertools.takewhile(lambda line: 'listening on' not in line, process.stdout))
    listens = process.poll() is None
    process.terminate()
    _, errors = process.communicate(timeout=60)
  assert listens and 'Traceback' not in errors, (words, lines, errors[-3000:])


@pytest.mark.long
def test_the_quick_commands_run_as_written(tmp_path):
  environment = os.environ | {'PYTHONPATH': str(ROOT), 'JAX_PLATFORMS': 'cpu'}
  for command, more in RUN.items():
    words = [sys.executable, *shlex.split(command)[1:], *more]
    done = subprocess.run(
      words, cwd=folder_of(command, tmp_path), env=environment, capture_output=True, text=True, timeout=1800
    )
    assert done.returncode == 0, (command, done.stderr[-3000:])
    assert 'Traceback' not in done.stderr, (command, done.stderr[-3000:])
  assert (tmp_path / 'runs' / 'digits' / 'report.html').exists()
  for command, more in SERVED.items():
    _serve([sys.executable, *shlex.split(command)[1:], *more], folder_of(command, tmp_path), environment)
  for runs in tmp_path.rglob('runs'):
    shutil.rmtree(runs)
