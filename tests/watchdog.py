"""Guards for tests of code that must end. No test's verdict depends on the speed of the machine otherwise."""

import contextlib
import gc
import signal
import time
from collections.abc import Iterator

HANG = 120.0  # seconds: far above what any guarded call takes, on any machine, unless it hangs


class Hang(AssertionError):
  """The guarded code did not end."""


@contextlib.contextmanager
def ends(seconds: float = HANG) -> Iterator[None]:
  """Fails with Hang if the block takes `seconds` of wall-clock time. Main thread only."""

  def give_up(*_):
    raise Hang(f'not done after {seconds} seconds')

  before = signal.signal(signal.SIGALRM, give_up)
  signal.setitimer(signal.ITIMER_REAL, seconds)
  try:
    yield
  finally:
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def processor_seconds(limit: float) -> Iterator[None]:
  """Fails with Hang if this thread spent `limit` processor seconds in the block: other load does not count.

  Neither do collections of the garbage that other tests left: in a long run one takes seconds.
  """
  collected = gc.isenabled()
  gc.disable()
  start = time.thread_time()
  try:
    with ends():
      yield
    spent = time.thread_time() - start
  finally:
    if collected:
      gc.enable()
  if spent > limit:
    raise Hang(f'{spent:.1f} processor seconds; expected at most {limit}')
