"""A small InternVL of random weights, served coupled and decoupled, compared with what its stage times predict.

Four arms, each a process of its own: coupled with both places (cores or accelerators), coupled with one, decoupled with
one place for each tower (the vision tower in a second process, features over a socket), and decoupled with half of the
tiles compressed. A closed loop keeps `in_flight` requests in flight. Stage times are reciprocal throughputs of each
tower alone, measured in the same processes, alternating with the whole: V and L seconds a request predict 1 ÷ (V + L)
requests a second coupled and 1 ÷ max(V, L) decoupled. The arms are printed together, since those with one place have
half of the machine.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence

from bench.perf.serving.options import ARMS, Arm, Towers

SIZES = ('requests', 'repeats', 'in_flight', 'tiles', 'tokens', 'places', 'numbers')


def run(options: Towers) -> None:
  """Runs the arms one after the other and prints their figures."""
  load, *_ = os.getloadavg()
  print(f'{options.places} {options.numbers}, load average {load:.1f} at the start')
  for name in options.arms or ARMS:
    command = arguments('arm', name, options)
    finished = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    last = finished.stdout.splitlines()[-1]
    print(line(name, json.loads(last)), flush=True)


def line(name: str, found: dict[str, float]) -> str:
  """An arm's figures next to the prediction."""
  rate = found['rate']
  predicted = found['predicted']
  vision = found['vision'] * 1e3
  language = found['language'] * 1e3
  stages = f'V = {vision:.0f} ms and L = {language:.0f} ms'
  return f'{name}: {rate:.2f} requests/s, {rate / predicted:.2f} of the {predicted:.2f} that {stages} predict'


def arguments(role: str, name: str, options: Towers) -> list[str]:
  """The command of a process that plays a role of an arm."""
  module = 'bench.perf.serving.tower_process'
  sizes = {key: getattr(options, key) for key in SIZES}
  return [sys.executable, '-m', module, role, name, json.dumps(sizes)]


def place(options: Towers, arm: Arm, role: str) -> None:
  """Restricts this process to its places, before jax is imported."""
  vision, language = options.numbers
  if role == 'vision':
    numbers = (vision,)
  elif arm.both:
    numbers = (vision, language)
  else:
    numbers = (language,)
  if options.places == 'cores':
    _pin(numbers)
  else:
    _choose_accelerators(numbers)


def _pin(cores: Sequence[int]) -> None:
  os.sched_setaffinity(0, cores)
  if len(cores) == 1:
    given = os.environ.get('XLA_FLAGS', '')
    os.environ['XLA_FLAGS'] = f'{given} --xla_cpu_multi_thread_eigen=false'


def _choose_accelerators(numbers: Sequence[int]) -> None:
  listed = ','.join(map(str, numbers))
  os.environ['CUDA_VISIBLE_DEVICES'] = listed
  os.environ['TPU_VISIBLE_CHIPS'] = listed
  if len(numbers) == 1:
    os.environ['TPU_CHIPS_PER_PROCESS_BOUNDS'] = '1,1,1'
    os.environ['TPU_PROCESS_BOUNDS'] = '1,1,1'
