"""Every program that the README and the documentation name: its help, a flag that does not exist, an interrupt."""

import os
import pathlib
import re
import runpy
import sys

import pytest

from core.launch import fields
from core.launch import job as launch

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROGRAMS = (
  'agents.mcp.servers.crawl',
  'agents.mcp.servers.documents',
  'agents.mcp.servers.python',
  'agents.mcp.servers.search',
  'agents.memory',
  'agents.run',
  'agents.serve_tools',
  'agents.train',
  'bench.agent',
  'bench.compare',
  'bench.predictions',
  'bench.pref_grpo.figures',
  'bench.pref_grpo.study',
  'bench.memory',
  'bench.perf.bundles',
  'bench.perf.engine_host',
  'bench.perf.flash',
  'bench.perf.flow',
  'bench.perf.generate',
  'bench.perf.kernels',
  'bench.perf.kernels_gpu',
  'bench.perf.load',
  'bench.perf.patching',
  'bench.perf.pieces',
  'bench.perf.grpo',
  'bench.perf.rollout',
  'bench.perf.sandbox',
  'bench.perf.seed',
  'bench.perf.seed_answers',
  'bench.perf.serve',
  'bench.perf.shared_prompt',
  'bench.perf.start',
  'bench.perf.tools',
  'bench.perf.train',
  'bench.perf.tree',
  'bench.perf.vibevoice',
  'bench.perf.vibevoice_frame',
  'bench.perf.vibevoice_long',
  'bench.perf.vlmevalkit',
  'bench.perf.whisper',
  'bench.recipes.figures',
  'bench.recipes.study',
  'bench.run',
  'bench.speech.heard',
  'bench.speech.run',
  'bench.table',
  'bench.unigenbench.digits',
  'bench.unigenbench.images',
  'bench.vico.run',
  'core.files.convert',
  'core.plan',
  'core.plan.sizes',
  'core.serve',
  'internvl.chat',
  'internvl.serve',
  'internvl.serve_vision',
  'internvl.train',
  'interp.loops',
  'interp.questions',
  'interp.report',
  'interp.train',
  'interp.transcribe',
  'rl.flow.generate',
  'rl.mpo',
  'rl.rollout.tree.sample',
  'rl.train',
  'vibevoice.compare',
  'vibevoice.serve',
  'vibevoice.synthesize',
  'vibevoice.train',
  'vibevoice.train_tokenizer',
)
JOBS = (
  'agents.train',
  'internvl.train',
  'interp.train',
  'rl.mpo',
  'rl.train',
  'vibevoice.train',
  'vibevoice.train_tokenizer',
)
# Programs that are not ours, and a package whose programs are walked one by one.
ELSEWHERE = {'pytest', 'venv', 'pip', 'http.server', 'virtualenv', 'agents.mcp.servers'}


def documented() -> set[str]:
  """The programs of ours that the documentation shows."""
  pages = [ROOT / 'README.md', *sorted((ROOT / 'docs').glob('*.md'))]
  named = {name for page in pages for name in re.findall(r'python3? -m ([a-z_]+(?:\.[a-z_]+)*)', page.read_text())}
  return {name for name in named - ELSEWHERE if not name.startswith('tests.')}  # scripts next to the tests


def test_every_documented_program_is_walked():
  assert documented() <= set(PROGRAMS)


@pytest.fixture
def run(monkeypatch, capsys):
  """Runs a program in this process: (exit status, standard output, standard error)."""
  monkeypatch.setattr(os, 'environ', os.environ.copy())  # programs set what the libraries that they load read
  monkeypatch.setattr(os, 'sched_setaffinity', lambda *_: None)
  monkeypatch.setattr(sys, 'stdin', None)  # no program may read it here

  def run(name: str, *argv: str) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, 'argv', [name, *argv])
    with pytest.raises(SystemExit) as ended:
      runpy.run_module(name, run_name='__main__', alter_sys=True)
    captured = capsys.readouterr()
    return ended.value.code, captured.out, captured.err

  return run


@pytest.mark.filterwarnings('ignore:.*found in sys.modules:RuntimeWarning')
@pytest.mark.parametrize('name', PROGRAMS)
def test_help_lists_every_flag_and_bad_usage_is_one_line(name, run):
  for flag in ('--help', '-h'):
    status, out, err = run(name, flag)
    assert (status, err) == (0, ''), err
    assert len(out.splitlines()) >= 7
    listed = re.findall(r'^  (?:--)?([\w.]+)(?::|=)', out, re.MULTILINE)
    assert listed and len(listed) == len(set(listed))
  status, out, err = run(name, '--no_such_flag=1')
  assert (status, out) == (2, '')
  assert err.startswith('error: ') and err.count('\n') == 1


@pytest.mark.parametrize('name', JOBS)
def test_every_field_of_a_job_has_a_meaning(name):
  module = __import__(name, fromlist=['CONFIGS'])
  for config in module.CONFIGS.values():
    without = [leaf.name for leaf in fields.leaves(config) if not leaf.meaning]
    assert not without
    text = launch.help_text('', {'c': config}, 'c')
    assert all(f'  {leaf.name}: ' in text for leaf in fields.leaves(config))
