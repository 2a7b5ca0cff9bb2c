"""Stop strings, looked for as tokens arrive: each new token is decoded beside its last neighbours only."""

from collections.abc import Callable, Sequence

CHARACTER = 8  # tokens that one character may take


class StopStrings:
  """Watches one growing answer."""

  def __init__(self, decode: Callable[[Sequence[int]], str], strings: Sequence[str]):
    self._decode, self._strings = decode, tuple(strings)
    self._keep = max(map(len, self._strings)) - 1
    self._before: list[int] = []  # tokens whose text is known, as context for the next ones
    self._pending: list[int] = []  # an unfinished character
    self._tail = ''

  def feed(self, tokens: Sequence[int]) -> int | None:
    """How many of the next `tokens` belong to the answer, up to the one that completes a stop string; None if none."""
    for i, token in enumerate(tokens):
      self._pending.append(token)
      known = self._decode(self._before)
      text = self._decode(self._before + self._pending)
      if text.endswith('\ufffd') and len(self._pending) < CHARACTER:
        continue
      self._tail += text[len(known) :]
      if any(s in self._tail for s in self._strings):
        return i + 1
      self._tail = self._tail[len(self._tail) - self._keep :] if self._keep < len(self._tail) else self._tail
      self._before, self._pending = self._pending, []
    return None
