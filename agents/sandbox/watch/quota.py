"""Whether a family of processes is within the limits that the kernel does not enforce for it."""

from agents.sandbox.limits import Limits
from agents.sandbox.watch import trees
from agents.sandbox.watch.family import Family

Verdict = tuple[str, str]  # status, reason


def verdict(family: Family, limits: Limits, scratch: str | None) -> Verdict | None:
  """The verdict on a family that uses more than its limits, or whose use cannot be told; None within the limits.

  scratch: the working folder, if its size and the number of processes have no limit in the kernel.
  """
  buffers, removed = family.held(limits.descriptors)
  left = limits.memory - buffers
  if family.memory() > left and family.exact_memory() > left:
    return 'memory', f'more than {limits.memory} bytes of memory, of which {buffers} for pipes and sockets'
  if scratch is None:
    return None
  tasks = family.tasks()
  if tasks > limits.tasks:
    return 'error', f'{tasks} processes and threads, more than {limits.tasks}'
  return _folder(scratch, limits, removed)


def _folder(scratch: str, limits: Limits, removed: int) -> Verdict | None:
  """The verdict on the working folder; `removed` bytes are in files that are open but in no folder any more."""
  try:
    size, count = trees.usage(scratch, limits.inodes)
  except trees.Unwatchable as error:
    return 'error', f'the working folder cannot be measured: {error}'
  if size + removed > limits.disk or count > limits.inodes:
    return 'error', f'more than {limits.disk} bytes or {limits.inodes} files in the working folder'
  return None
