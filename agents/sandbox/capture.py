"""The captured part of an output stream."""

import mmap
import os


class Capture:
  """The head and the tail of a stream, and its length.

  Stored outside the heap, in pages that a fork does not inherit: no call finds in its memory what an earlier one
  printed.
  """

  def __init__(self, keep: int):
    self.half = max(keep // 2, 1)
    self.total = 0
    memory = mmap.mmap(-1, 2 * self.half, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_DONTFORK)
    view = memoryview(memory)
    self.head = view[: self.half]
    self.ring = view[self.half :]

  def read(self, fd: int) -> bool:
    """Reads the available bytes, at most a few pages; False at the end of the stream."""
    if self.total < self.half:
      free = [self.head[self.total :]]
    else:
      at = (self.total - self.half) % self.half
      free = [self.ring[at:], self.ring[:at]]
    try:
      count = os.readv(fd, free)
    except BlockingIOError:
      return True
    self.total += count
    return count > 0

  @property
  def omitted(self) -> int:
    """Bytes that are in neither head nor tail."""
    return max(0, self.total - 2 * self.half)

  def parts(self) -> tuple[memoryview, memoryview, memoryview]:
    """The head, and the tail in two pieces."""
    at = 0
    if self.omitted:
      at = (self.total - self.half) % self.half
    length = min(max(self.total - self.half, 0), self.half)
    return self.head[: self.total], self.ring[at:length], self.ring[:at]
