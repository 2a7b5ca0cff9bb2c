"""How a pool chooses what isolates its calls, and what it refuses to start with."""

import os

import psutil
import pytest

from agents.sandbox import HarnessError, Pool
from agents.sandbox.isolation import selftest


def test_a_command_may_be_put_before_the_zygote():
  with Pool(1, profile='python', wrap=('nice', '-n', '3')) as pool:
    assert pool.run('6 * 7').stdout == '42\n'
    assert psutil.Process(pool._seed.process.pid).nice() == min(os.nice(0) + 3, 19)


@pytest.mark.parametrize(
  ('wrap', 'cause'),
  [
    (('sh', '-c', 'echo no namespaces for you >&2; exit 3'), 'exit status 3; no namespaces for you'),
    (('sh', '-c', 'kill -9 $$'), 'exit status -9'),
    (('no such command',), 'no such command'),
  ],
)
def test_a_pool_that_does_not_start_says_why_and_leaves_no_folder(wrap, cause, tmp_path, monkeypatch):
  monkeypatch.setattr('tempfile.tempdir', str(tmp_path))
  with pytest.raises(HarnessError, match=cause):
    Pool(1, profile='python', backend='rlimits', wrap=wrap)
  assert not list(tmp_path.iterdir())


def test_refusal_says_why():
  def broken(backend):
    raise OSError(f'{backend} is off')

  with pytest.raises(HarnessError, match=r'namespaces is off.*landlock is off.*rlimits'):
    selftest.choose(None, broken)


def test_self_test_refuses_a_backend_that_does_not_hold(monkeypatch):
  monkeypatch.setattr(selftest, 'AUTOMATIC', ('rlimits',))
  with pytest.raises(HarnessError, match='reads a file of the host'):
    Pool(1, profile='python')
