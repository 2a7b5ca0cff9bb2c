"""Programs in processes of their own: several under jax.distributed, or one with many fake devices."""

import concurrent.futures
import os
import pathlib
import socket
import subprocess
import sys
import threading

from tests.compilation import quick

ROOT = pathlib.Path(__file__).parents[2]


def spawn(program: str, *argv: str, devices: int = 1, count: int = 1) -> list[subprocess.Popen]:
  """Starts `count` Python processes running the text `program`, each with `devices` fake CPU devices.

  Several are given the flags with which `core.mesh.start` finds the others, in the variables COORDINATOR,
  PROCESSES and PROCESS.
  """
  with socket.socket() as s:
    s.bind(('localhost', 0))
    coordinator = f'localhost:{s.getsockname()[1]}'
  flags = f'--xla_force_host_platform_device_count={devices} {quick()}'
  env = os.environ | {
    'PYTHONPATH': str(ROOT),
    'JAX_PLATFORMS': 'cpu',
    'XLA_FLAGS': flags,
    'COORDINATOR': coordinator,
    'PROCESSES': str(count),
  }
  return [
    subprocess.Popen(
      [sys.executable, '-c', program, *argv],
      env=env | {'PROCESS': str(i)},
      text=True,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
    )
    for i in range(count)
  ]


def join(processes: list[subprocess.Popen], *, limit: float = 120, code: int = 0) -> list[tuple[str, str]]:
  """Waits until all have ended with exit status `code`; returns what each wrote: (stdout, stderr).

  Past `limit` seconds in all, or when one ends differently, the others are killed and AssertionError says why.
  """
  wrong = []

  def stop(why: str) -> None:
    wrong.append(why)
    for p in processes:
      p.kill()

  def wait(p: subprocess.Popen) -> tuple[str, str]:
    out, err = p.communicate()
    if p.returncode != code and not wrong:
      stop(f'exit status {p.returncode}, expected {code}:\n{err[-4000:]}')
    return out, err

  late = threading.Timer(limit, stop, [f'not done in {limit} s'])
  late.start()
  with concurrent.futures.ThreadPoolExecutor(len(processes)) as pool:  # all at once: a full pipe stops its writer
    wrote = list(pool.map(wait, processes))
  late.cancel()
  assert not wrong, '\n'.join([wrong[0], *(err[-2000:] for _, err in wrote)])
  return wrote
