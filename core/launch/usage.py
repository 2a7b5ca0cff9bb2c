"""The text of --help."""

import textwrap
from collections.abc import Iterable, Iterator

from core.launch import casting, fields

WIDTH = 100


def _entry(head: str, meaning: str) -> Iterator[str]:
  yield f'  {head}'
  indent = ' ' * 6
  yield from textwrap.wrap(meaning, WIDTH, initial_indent=indent, subsequent_indent=indent)


def field_lines(config, *, prefix: str = '') -> Iterator[str]:
  """A paragraph for each leaf field of a config or config class: name, type, default, meaning."""
  for path, choices in fields.named(config):
    yield from _entry(f'{prefix}{path}', f'one of {", ".join(choices)}, whose fields are:')
  for leaf in fields.leaves(config):
    if leaf.positional:
      continue
    more = '; may be repeated' if leaf.repeated else ''
    yield from _entry(f'{prefix}{leaf.name}: {casting.spell(leaf.kind)} = {leaf.value!r}', leaf.meaning + more)


def page(doc: str, *sections: tuple[str, Iterable[str]]) -> str:
  """A program's documentation followed by titled sections."""
  lines = [doc.strip()]
  for title, body in sections:
    lines += ['', title, *body]
  return '\n'.join(lines)
