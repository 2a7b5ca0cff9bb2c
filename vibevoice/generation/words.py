"""Text as it arrives, in tokens: the same ones that the whole text has."""

import re
from collections.abc import Callable, Iterable, Iterator

# Before a space between two words no token of a byte-pair vocabulary like Qwen's joins what comes before and after.
BOUNDARY = re.compile(r'(?<=\S)(?= [^\W\d_])')
ASCII_QUOTES = str.maketrans({'\u2018': "'", '\u2019': "'", '\u201c': '"', '\u201d': '"'})


def tokens_of(text: str | Iterable[str], encode: Callable[[str], list[int]]) -> Iterator[int]:
  """The tokens of a text, whole or in pieces, without white space around it and with a newline at its end.

  A token is given out as soon as no later piece can change it: at the latest word but one. Raises ValueError for a
  text without words.
  """
  held = ''
  empty = True
  for piece in [text] if isinstance(text, str) else text:
    held += piece.translate(ASCII_QUOTES)
    if empty:
      held = held.lstrip()
    whole, held = _cut(held)
    if whole:
      empty = False
      yield from encode(whole)
  rest = held.rstrip()
  if empty and not rest:
    raise ValueError('no text to speak')
  yield from encode(rest + '\n')


def _cut(text: str) -> tuple[str, str]:
  """(the part that is final, the last word and what may belong to it)."""
  starts = [match.start() for match in BOUNDARY.finditer(text)]
  at = starts[-1] if starts else 0
  return text[:at], text[at:]
