"""Tokens of a formula: their kinds, their signs for the grammar, and their text as a label."""

from typing import NamedTuple

MAX_CHARACTERS = 20_000
MAX_DIGITS = 400
MAX_NESTING = 200


class Token(NamedTuple):
  """kind: number, letter, command, word (upright), run (bare letters in unit mode), text, or the sign."""

  kind: str
  text: str


def sign(token: Token) -> str:
  """What a token is for the grammar: its sign, or its command with a backslash."""
  if token.kind == 'command':
    return '\\' + token.text
  return token.kind


def label(tokens: list[Token]) -> tuple[str, ...]:
  """Tokens as a label. Words count by their letters: an upright kin is the same label as k i n."""
  parts: list[str] = []
  for t in tokens:
    if t.kind in ('word', 'text', 'run'):
      parts += [c for c in t.text if c != ' ']
    elif t.kind == 'number':
      parts += t.text
    elif t.kind not in '{}':
      parts.append(sign(t) if t.kind == 'command' else t.text)
  return tuple(parts)
