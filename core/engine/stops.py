"""Stop strings, looked for as tokens arrive: each new token is decoded together with its last neighbours only."""

import copy
from collections.abc import Callable, Sequence

MOST_TOKENS_OF_A_CHARACTER = 8


class StopStrings:
  """Watches one growing text for the strings.

  before: tokens in front of the first new one. A string counts if its last character is new, so one that begins in the
  prompt, or in the response that a fork or a resubmitted prompt continues, is found.
  """

  def __init__(self, decode: Callable[[Sequence[int]], str], strings: Sequence[str], before: Sequence[int] = ()):
    self._decode = decode
    self._strings = tuple(strings)
    self._keep = max(map(len, self._strings)) - 1
    self._context: list[int] = []  # tokens whose text is known, as context for the next ones
    self._pending: list[int] = []  # an unfinished character
    self._tail = ''
    most = MOST_TOKENS_OF_A_CHARACTER * (self._keep + 1)
    for token in before[max(len(before) - most, 0) :]:
      self._keep_tail(self._tail + self._text_of(token))

  def copy(self) -> 'StopStrings':
    """Another watch of the same text, which then grows separately."""
    other = copy.copy(self)
    other._context = list(self._context)
    other._pending = list(self._pending)
    return other

  def feed(self, tokens: Sequence[int]) -> int | None:
    """How many of the next `tokens` belong to the response, up to one that completes a string; None if none does."""
    for i, token in enumerate(tokens):
      known = len(self._tail)
      text = self._tail + self._text_of(token)
      if any(text.find(s, max(known - len(s) + 1, 0)) >= 0 for s in self._strings):
        return i + 1
      self._keep_tail(text)
    return None

  def _keep_tail(self, text: str) -> None:
    self._tail = text[max(len(text) - self._keep, 0) :]

  def _text_of(self, token: int) -> str:
    """The text that a token adds; empty while a character is unfinished."""
    self._pending.append(token)
    known = self._decode(self._context)
    text = self._decode(self._context + self._pending)
    if text.endswith('\ufffd') and len(self._pending) < MOST_TOKENS_OF_A_CHARACTER:
      return ''
    self._context = self._pending
    self._pending = []
    return text[len(known) :]
