"""Stop strings, found as tokens arrive: each new token is decoded together with the few tokens before it."""

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
    longest = max(map(len, self._strings))
    self._keep = longest - 1
    self._context: list[int] = []  # tokens whose text is known, as context for the next ones
    self._pending: list[int] = []  # an unfinished character
    self._tail = ''
    most = MOST_TOKENS_OF_A_CHARACTER * longest
    first = max(len(before) - most, 0)
    for token in before[first:]:
      text = self._text_of(token)
      self._keep_tail(self._tail + text)

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
      if any(_ends_after(text, known, string) for string in self._strings):
        return i + 1
      self._keep_tail(text)
    return None

  def _keep_tail(self, text: str) -> None:
    first = max(len(text) - self._keep, 0)
    self._tail = text[first:]

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


def _ends_after(text: str, known: int, string: str) -> bool:
  """Whether a string occurs in the text with its last character after the first `known` ones."""
  first = max(known - len(string) + 1, 0)
  return text.find(string, first) >= 0
