"""A slot: forks one call at a time, watches it, and reports its result.

The code has no channel on which it could report a result. The slot observes the exit, measures the time and reads the
output from pipes, so nothing can be forged. Only a session's process sends "this cell is done", one byte; forging it
truncates only the session's own result.
"""

import contextlib
import dataclasses
import json
import os
import select
import signal
import socket
import sys
import time
import traceback
from typing import NoReturn

from agents.sandbox import call as call_body
from agents.sandbox import wire
from agents.sandbox.capture import Capture
from agents.sandbox.isolation.backends import Plain
from agents.sandbox.limits import Limits
from agents.sandbox.watch import quota

_TICK = 0.02  # seconds between two checks of a family


class Call:
  """A forked process with its pipes."""

  def __init__(self, pid: int, out: int, err: int, channel: socket.socket | None, scratch: str):
    self.pid = pid
    self.pidfd = os.pidfd_open(pid)
    self.pipes: dict[int, Capture | None] = {out: None, err: None}
    self.channel = channel
    self.scratch = scratch

  def close(self) -> None:
    for fd in (self.pidfd, *self.pipes):
      os.close(fd)
    if self.channel:
      self.channel.close()


class Slot:
  """The supervisor of one slot; serves requests on `sock` until it is closed."""

  def __init__(self, sock: socket.socket, backend: Plain):
    self.sock = sock
    self.backend = backend
    self.family = backend.family()
    self.space = self.family.space()
    self.session: Call | None = None

  def serve(self) -> None:
    """Answers requests; returns when the other end is closed."""
    try:
      while True:
        (meta,) = wire.receive(self.sock)
        if meta == wire.STOP:  # the call had ended before it arrived
          continue
        meta = json.loads(meta)
        limits = Limits(**meta['limits'])
        if meta['session']:
          self._cell(limits)
        else:
          self._once(limits)
    except OSError as error:  # the other end, if it is open, drops this slot
      failure = {'status': 'harness', 'reason': f'{type(error).__name__}: {error}'}
      with contextlib.suppress(OSError):
        wire.send(self.sock, json.dumps(failure).encode())
    self._drop_session()

  def _once(self, limits: Limits) -> None:
    """A one-shot call, from the fork to the end of all processes that it started.

    The fork itself reads code and input from the socket. This process never has them in memory, so later forks do not.
    """
    call = self._start(limits, session=False)
    self._watch(call, limits, {'fresh': True})

  def _cell(self, limits: Limits) -> None:
    """The next cell of the session, in the process with its state; in a new one if there is none."""
    payload = wire.receive(self.sock)
    fresh = self.session is None
    if fresh:
      self.session = self._start(limits, session=True)
    channel = self.session.channel
    while _within(0, channel.fileno()):  # bytes sent between cells have no meaning
      if not _receive(channel, 4096):
        break
    self.family.signal(signal.SIGCONT)
    try:
      channel.settimeout(limits.wall)
      wire.send(channel, *payload)
    except OSError:  # it does not read, or it ended: the watch will notice
      pass
    self._watch(self.session, limits, {'fresh': fresh})

  def _start(self, limits: Limits, *, session: bool) -> Call:
    """Forks and confines a call. Raises OSError if it could not be confined."""
    if session:  # each cell has a wall limit; the sum of their processor time has none
      limits = dataclasses.replace(limits, cpu=float(2**31))
    scratch = self.backend.open_scratch(limits)
    out, out_w = os.pipe()
    err, err_w = os.pipe()
    ready, ready_w = os.pipe()
    mine, theirs = socket.socketpair() if session else (None, None)
    call_body.reseed()
    pid = self.backend.fork_call()
    if pid == 0:
      self._become_call(limits, scratch, (out_w, err_w, ready_w), theirs)
    for fd in (out_w, err_w, ready_w):
      os.close(fd)
    if theirs:
      theirs.close()
    for fd in (out, err):
      os.set_blocking(fd, False)
    call = Call(pid, out, err, mine, scratch)
    with open(ready, 'rb') as f:
      failure = f.read()
    if failure:
      self._end(call)
      raise OSError(f'the call could not be confined: {failure.decode()}')
    return call

  def _become_call(self, limits: Limits, scratch: str, pipes: tuple[int, int, int], channel) -> NoReturn:
    """The forked process: reads its input, confines itself, runs."""
    try:
      # The cells of a session bring their own names, code and input.
      names, code, stdin, *contents = (b'[]', b'', b'') if channel else wire.receive(self.sock)
      call_body.set_descriptors(call_body.sealed(stdin), *pipes, channel)
      os.chdir(scratch)
      self.backend.confine(limits, scratch, self.space + limits.memory)
    except BaseException:
      os.write(pipes[2], traceback.format_exc(limit=-2).encode())
      os._exit(1)
    os.close(call_body.READY)
    try:
      if channel:
        call_body.run_cells()
      else:
        call_body.run_once(code, names, contents)
    except BaseException:
      os.write(2, traceback.format_exc(limit=-2).encode('utf-8', 'replace'))
    finally:
      os._exit(1)  # the code never returns into the slot

  def _watch(self, call: Call, limits: Limits, report: dict) -> None:
    """Follows a call or a cell to its end or to a limit, and sends the report with the output."""
    start = time.monotonic()
    out, err = Capture(limits.output), Capture(limits.output)
    call.pipes = dict(zip(call.pipes, (out, err)))
    verdict, cell = self._follow(call, limits, start)
    report['seconds'] = time.monotonic() - start
    if cell:
      report.update(status='error' if cell[0] else 'ok', code=cell[0])
      self.family.signal(signal.SIGSTOP)  # processes that it left running wait for the next cell
      _drain(call)
    else:
      if call is self.session:
        self.session = None
      report.update(_outcome(*self._kill(call), limits))
      if verdict:
        report.update(status=verdict[0], reason=verdict[1], code=None)
    report['omitted'] = [out.omitted, err.omitted]
    wire.send(self.sock, json.dumps(report).encode(), *out.parts(), *err.parts())
    # After the report, because a large folder on a slow disk takes longer than a report may be late.
    left = [] if cell else self._clean(call)
    wire.send(self.sock, json.dumps(left).encode())

  def _follow(self, call: Call, limits: Limits, start: float) -> tuple[tuple[str, str] | None, bytes | None]:
    """(verdict of a limit or None, the byte that ends a cell or None), reading output meanwhile."""
    poll = self._poll(call)
    checked = start
    while True:
      left = start + limits.wall - time.monotonic()
      timeout = max(min(_TICK, left), 0)
      events = {fd for fd, _ in poll.poll(1e3 * timeout)}
      for fd in events & call.pipes.keys():
        if not call.pipes[fd].read(fd):
          poll.unregister(fd)
      if self.sock.fileno() in events:
        if not self.sock.recv(1, socket.MSG_PEEK):  # nobody uses this slot any more
          self._abandon(call)
        wire.receive(self.sock)
        return ('error', 'the caller left'), None
      if call.pidfd in events:
        return None, None
      if call.channel and call.channel.fileno() in events:
        return self._cell_end(call)
      if left <= 0:
        return ('timeout', f'wall time over {limits.wall} s'), None
      if sum(capture.total for capture in call.pipes.values()) > limits.flood:
        return ('output', f'more than {limits.flood} bytes of output'), None
      if time.monotonic() > checked + _TICK:
        verdict = quota.verdict(self.family, limits, call.scratch if self.backend.watched_scratch else None)
        _reap_orphans(call)
        checked = time.monotonic()
        if verdict:
          return verdict, None

  def _poll(self, call: Call) -> select.poll:
    """A poll over the call's pipes, its end, its channel and the end of this slot."""
    poll = select.poll()
    fds = [*call.pipes, call.pidfd, self.sock.fileno()]
    if call.channel:
      fds.append(call.channel.fileno())
    for fd in fds:
      poll.register(fd, select.POLLIN)
    return poll

  def _abandon(self, call: Call) -> NoReturn:
    """Ends the call and the slot."""
    if call is self.session:
      self._drop_session()
    else:
      self._end(call)
    raise SystemExit(0)

  def _cell_end(self, call: Call) -> tuple[tuple[str, str] | None, bytes | None]:
    """As `_follow`, when a session's channel has something to read."""
    cell = _receive(call.channel, 1)
    if cell:
      return None, cell
    if _within(0.2, call.pidfd):  # closed because the process ended
      return None, None
    return ('error', 'the session closed its own channel'), None

  def _kill(self, call: Call) -> tuple[int, float]:
    """Ends a family; (exit code or minus the signal, processor seconds) of its first process."""
    if not _within(0, call.pidfd):
      signal.pidfd_send_signal(call.pidfd, signal.SIGKILL)
    _, status, usage = os.wait4(call.pid, 0)
    self.backend.end_family(self.family)
    _drain(call)
    call.close()
    return os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime

  def _clean(self, call: Call) -> list[str]:
    """Removes the files of a call that has ended; what could not be removed and why."""
    left = self.backend.close_scratch(call.scratch)
    for problem in left:
      print(f'sandbox: not removed: {problem}', file=sys.stderr, flush=True)
    return left

  def _end(self, call: Call) -> None:
    """Ends a call whose result nobody waits for."""
    self._kill(call)
    self._clean(call)

  def _drop_session(self) -> None:
    call = self.session
    self.session = None
    if call:
      self._end(call)


def _outcome(code: int, cpu: float, limits: Limits) -> dict:
  """The report on the exit of a call that no limit of the watch ended."""
  if code >= 0:
    return {'cpu': cpu, 'code': code, 'status': 'error' if code else 'ok', 'reason': ''}
  if -code == signal.SIGXCPU or (-code == signal.SIGKILL and cpu >= limits.cpu):
    return {'cpu': cpu, 'code': None, 'status': 'timeout', 'reason': f'processor time over {limits.cpu} s'}
  return {'cpu': cpu, 'code': None, 'status': 'error', 'reason': f'ended by {signal.Signals(-code).name}'}


def _reap_orphans(call: Call) -> None:
  """Reaps processes whose parents have ended, so that they do not count as processes of the call."""
  while True:
    ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    if ended is None or ended.si_pid == call.pid:
      return
    os.waitpid(ended.si_pid, 0)


def _drain(call: Call) -> None:
  """Reads the rest of the pipes, whose writers are dead or stopped."""
  for fd, capture in call.pipes.items():
    before = -1
    while capture and capture.total > before:
      before = capture.total
      capture.read(fd)


def _receive(channel: socket.socket, size: int) -> bytes:
  """Bytes from the code's end of a channel; empty if it is closed or broken."""
  try:
    return channel.recv(size)
  except OSError:
    return b''


def _within(seconds: float, fd: int) -> bool:
  """Whether a descriptor becomes readable within that time; of a process descriptor, whether it ended."""
  poll = select.poll()
  poll.register(fd, select.POLLIN)
  return bool(poll.poll(1e3 * seconds))
