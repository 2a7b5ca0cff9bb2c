"""Runs a hostile snippet among the calls of other callers, and checks what every such call must leave intact."""

import ctypes
import subprocess
import threading
import time

import psutil

from agents.sandbox import Limits, Pool, Result
from tests.watchdog import HANG

LIMITS = Limits(wall=1.5, cpu=2.0, memory=128 * 2**20, tasks=24, disk=16 * 2**20, inodes=256, flood=8 * 2**20)
IGNORE_ALL = """
import os, signal
for s in range(1, 65):
  try: signal.signal(s, signal.SIG_IGN)
  except (OSError, ValueError): pass
"""
# Prints ESCAPED if the statement succeeds.
TRY = """
import ctypes, os, socket, sys
libc = ctypes.CDLL(None)
try:
  {}
  print('ESCAPED')
except (OSError, AssertionError) as error:
  print('held', type(error).__name__)
"""


def kernel_has(backend: str) -> bool:
  """Whether this kernel lets any user do what the backend needs, asked without the sandbox."""
  if backend == 'landlock':
    return ctypes.CDLL(None).syscall(444, None, 0, 1) >= 3  # landlock_create_ruleset, its version
  command = ['unshare', '--user', '--map-root-user', '--mount', '--pid', '--net', '--fork', 'mount', '-t', 'tmpfs']
  return subprocess.run([*command, 'none', '/mnt'], capture_output=True).returncode == 0


def family(pool: Pool) -> set[int]:
  """Process ids of the pool's seed and all its descendants, zombies left out."""
  descendants = psutil.Process(pool._seed.process.pid).children(recursive=True)
  return {p.pid for p in descendants if p.status() != psutil.STATUS_ZOMBIE}


def run_among_others(pool: Pool, code: str) -> Result:
  """The result of `code` while another thread keeps calling; checks time, containment and leftover processes."""
  others, done = [], threading.Event()

  def call():
    while not done.is_set():
      others.append(pool.run('6 * 7'))
      time.sleep(0.02)

  before = {(p := pool.run('1')).status for _ in range(2)}
  assert before == {'ok'}, p
  thread = threading.Thread(target=call)
  thread.start()
  start = time.monotonic()
  result = pool.run(code)
  seconds = time.monotonic() - start
  done.set()
  thread.join()
  assert seconds < LIMITS.wall + HANG, seconds
  assert 'ESCAPED' not in result.stdout, result
  assert others, 'no other call was answered'
  assert {(r.status, r.stdout) for r in others} == {('ok', '42\n')}, others
  assert len(family(pool)) <= 1 + pool.workers + 2 * bool(pool._wrap), 'processes are left'
  return result
