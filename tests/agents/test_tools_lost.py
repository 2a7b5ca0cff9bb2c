"""A service of tools that is killed while trajectories of a rollout wait for it."""

import contextlib
import dataclasses
import signal
import socket
import subprocess
import sys
import threading
import time
import types

import numpy as np
import psutil
import pytest

from agents.configs import CONFIGS
from agents.rollout.loop import rollout
from agents.rollout.protocol import END, TAGS, Protocol, call_text
from agents.rollout.tools import Runner, python_tool
from agents.rollout.trajectory import Bounds
from agents.service.client import Client
from agents.train import plan_of
from core.files.tokenizers import byte_tokenizer
from rl.policy.text import TextPrompt
from rl.rollout import Ask
from tests.agents.scripted import ScriptedEngine
from tests.watchdog import ends

PROTOCOL = Protocol(byte_tokenizer(TAGS, eos=END, pad=END))
QUICK = 'print(6 * 7)'
SLOW = f'import time\ntime.sleep(0.3)\n{QUICK}'


def serve(port):
  """Starts `python -m agents.serve_tools` on a port of this machine."""
  return subprocess.Popen(
    [sys.executable, '-m', 'agents.serve_tools', f'--port={port}', '--token=none', '--workers=2', '--profile=python'],
    stdout=subprocess.PIPE,
    text=True,
  )


def serves(process) -> bool:
  """Waits until a command just started serves."""
  return 'listening' in process.stdout.readline() and 'holds' in process.stdout.readline()


@pytest.fixture
def service():
  """(its processes, its port); those that a test adds to the list are ended too."""
  with socket.create_server(('127.0.0.1', 0)) as taken:
    port = taken.getsockname()[1]
  started = [serve(port)]
  assert serves(started[0])
  yield started, port
  for process in started:
    process.send_signal(signal.SIGTERM)
    process.wait(10)
    process.stdout.close()


def kill(process) -> None:
  """kill -9 of the command and the server under it."""
  for victim in (process, *psutil.Process(process.pid).children()):
    with contextlib.suppress(psutil.NoSuchProcess):
      victim.kill()
  process.wait()


def say(request):
  """Calls the tool twice, every other trajectory slowly at first, then answers."""
  turn = list(request.prompt).count(PROTOCOL.stop_id) // 2
  if turn == 2:
    return PROTOCOL.assistant('<answer>\\boxed{42}</answer>')
  code = SLOW if turn == 0 and request.seed % 2 else QUICK
  return PROTOCOL.assistant(call_text('python', {'code': code, 'input': ''}))


@contextlib.contextmanager
def remote(address, patience):
  """A runner whose tool is the service at an address."""
  runner, client = Runner({}), Client(address, patience=patience)
  runner.tools['python'] = python_tool(client.run)
  try:
    yield runner
  finally:
    runner.wait(client.close())
    runner.close()


def conversations(port, n, *, patience):
  """n trajectories whose tool is the service on that port."""
  engine = ScriptedEngine(say, PROTOCOL.stop_id)
  with remote(f'http://127.0.0.1:{port}', patience) as runner:
    traces = rollout(
      [engine], [PROTOCOL.prompt('6*7')] * n, range(n), protocol=PROTOCOL, runner=runner, bounds=Bounds(6000)
    )
  assert engine.idle and all(t.stop == 'final' and len(t.turns) == 3 and t.mask[-1] for t in traces)
  return [r for t in traces for r in t.responses]


@pytest.mark.slow
def test_a_service_that_comes_back_is_waited_for(service):
  """Killed while calls run and started again a second later, it is called again: no trajectory knows of it."""
  started, port = service
  spent = []

  def away():
    kill(started[0])
    time.sleep(1)
    started.append(serve(port))
    if serves(started[-1]):
      command = psutil.Process(started[-1].pid)
      spent.append(sum(sum(p.cpu_times()[:2]) for p in (command, *command.children(recursive=True))))

  timer = threading.Timer(0.2, away)
  timer.start()
  responses = conversations(port, 24, patience=15.0)
  timer.join()
  assert len(spent) == 1 and spent[0] < 2.0, f'{spent} processor seconds until it served again'
  assert len(responses) == 48 and all(r.status == 'ok' and 'stdout: 42' in r.text for r in responses)


def test_a_service_that_stays_away_is_told_and_the_rollout_ends(service):
  started, port = service
  timer = threading.Timer(0.2, kill, started[:1])
  timer.start()
  with ends():
    responses = conversations(port, 24, patience=1.0)
  timer.join()
  lost = [r for r in responses if r.status != 'ok']
  assert {r.status for r in lost} == {'harness'}
  assert {r.text.splitlines()[1] for r in lost} == {'reason: internal_error'}


def test_training_stops_rather_than_learn_from_a_rollout_whose_tools_are_gone():
  config = dataclasses.replace(CONFIGS['smoke'], lag=None)
  engine = ScriptedEngine(say, PROTOCOL.stop_id)
  prompts = [TextPrompt(np.array(PROTOCOL.prompt('6*7'), np.int32))] * 2
  with remote('http://127.0.0.1:1', 0.1) as runner:
    policy = types.SimpleNamespace(protocol=PROTOCOL)
    plan = plan_of(config, policy, runner, Bounds(6000), samples=1)
    with pytest.raises(ConnectionError, match='4 of 4 tool calls of a rollout were lost'):
      plan(types.SimpleNamespace(engine=engine), Ask(0, 0, [0, 1], [None] * 2, prompts))
