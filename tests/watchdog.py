"""Guards for tests of code that must end. No test's verdict depends on the speed of the machine otherwise."""

import contextlib
import signal
from collections.abc import Iterator

HANG = 120.0  # seconds: far above what any guarded call takes, on any machine, unless it hangs


class Hang(AssertionError):
  """The guarded code did not end."""


@contextlib.contextmanager
def ends(seconds: float = HANG) -> Iterator[None]:
  """Fails with Hang if the block takes `seconds` of wall-clock time. Main thread only."""
  with _alarm(signal.ITIMER_REAL, signal.SIGALRM, seconds):
    yield


@contextlib.contextmanager
def processor_seconds(limit: float) -> Iterator[None]:
  """Fails with Hang if this process spends `limit` processor seconds in the block: other load does not count."""
  with _alarm(signal.ITIMER_PROF, signal.SIGPROF, limit):
    yield


@contextlib.contextmanager
def _alarm(timer: int, number: int, seconds: float) -> Iterator[None]:
  def give_up(*_):
    raise Hang(f'not done after {seconds} seconds')

  before = signal.signal(number, give_up)
  signal.setitimer(timer, seconds)
  try:
    yield
  finally:
    signal.setitimer(timer, 0)
    signal.signal(number, before)
