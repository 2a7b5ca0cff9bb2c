"""Limits of a call, and its result."""

import dataclasses

MIB = 2**20


@dataclasses.dataclass(frozen=True)
class Limits:
  """The limits of one call. Every limit is hard: the code cannot raise it.

  wall: seconds from the fork to the end. cpu: processor seconds of a process, rounded up. memory: bytes beyond the
  preloaded interpreter, of a process as address space and of the whole family as pages and as what its pipes and
  sockets may hold. tasks: processes and threads
  at once. disk, inodes: the private /tmp. descriptors: open files of a process. output: bytes kept of each of stdout
  and stderr (head and tail); flood: bytes of both after which the call is ended.
  """

  wall: float = 4.0
  cpu: float = 4.0
  memory: int = 512 * MIB
  tasks: int = 32
  disk: int = 64 * MIB
  inodes: int = 4096
  descriptors: int = 128
  output: int = 64 * 1024
  flood: int = 64 * MIB

  def __post_init__(self):
    for field in dataclasses.fields(self):
      value = getattr(self, field.name)
      if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float('inf'):
        raise ValueError(f'Limits.{field.name}={value!r}: expected a positive finite number')
      if field.type is int and not isinstance(value, int):
        raise ValueError(f'Limits.{field.name}={value!r}: expected an int')


# ok: ended with exit code 0. error: an exception, a non-zero exit, a signal. timeout: wall or processor seconds.
# memory: the family together. output: a flood. harness: the sandbox failed, not the code; only this may be retried.
STATUSES = ('ok', 'error', 'timeout', 'memory', 'output', 'harness')


@dataclasses.dataclass(frozen=True)
class Result:
  """What came of a call.

  stdout, stderr: text, invalid UTF-8 replaced; when longer than `Limits.output` the head and the tail with a marker
  that states the bytes left out between, which `omitted` counts (of stdout, of stderr). seconds: wall time of the
  run; queued: wall time before it. cpu: processor seconds, None for a call of a session. code: exit code, None when
  a signal or a limit ended it or a session continues. reason: why, in words, when status is not ok or error by
  exception. fresh: the call started without kept state. left: files of the host that the call made and that could not
  be removed, each with the reason; the pool tries again when it closes.
  """

  status: str
  stdout: str = ''
  stderr: str = ''
  seconds: float = 0.0
  queued: float = 0.0
  cpu: float | None = None
  code: int | None = None
  reason: str = ''
  omitted: tuple[int, int] = (0, 0)
  fresh: bool = True
  left: tuple[str, ...] = ()

  ok = property(lambda self: self.status == 'ok')


class HarnessError(RuntimeError):
  """The sandbox itself failed: no backend works here, the zygote does not start, a worker is gone."""
