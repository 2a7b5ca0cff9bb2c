"""Reads flat lists that models and tables write, as data: nothing is compiled or evaluated."""

import re

MAX_CHARS = 65_536
_TOKEN = re.compile(
  r"""\s*(?:
    (?P<text>'(?:[^'\\]|\\.)*+'|"(?:[^"\\]|\\.)*+")
  | (?P<number>[+-]?\d{1,30}(?:\.\d{0,30})?(?:[eE][+-]?\d{1,3})?)(?![\w.])
  | (?P<word>True|False|None|true|false|null)\b
  | (?P<mark>[\[\](),])
)""",
  re.VERBOSE | re.DOTALL,
)
_WORDS = {'True': True, 'true': True, 'False': False, 'false': False, 'None': None, 'null': None}
_ESCAPE = re.compile(r'\\(.)', re.DOTALL)
_ESCAPES = {'n': '\n', 't': '\t', 'r': '\r'}
_CLOSING = {'[': ']', '(': ')'}


def read_list(text: str) -> list[str | int | float | bool | None]:
  """A bracketed list or tuple of texts, numbers, truth values and nothings.

  Raises ValueError for anything else: nesting, sets, names, calls, more than 64 KiB.
  """
  if len(text) > MAX_CHARS:
    raise ValueError(f'a list of {len(text)} characters, at most {MAX_CHARS} are read')
  tokens = _tokens(text.strip())
  if len(tokens) < 2 or tokens[0][1] not in _CLOSING or tokens[-1][1] != _CLOSING[tokens[0][1]]:
    raise ValueError('not a bracketed list')
  body = tokens[1:-1]
  if body and body[-1] == ('mark', ','):
    body = body[:-1]
  values = body[::2]
  commas = body[1::2]
  if any(kind == 'mark' for kind, _ in values) or any(token != ('mark', ',') for token in commas):
    raise ValueError('not a flat list')
  if body and len(values) != len(commas) + 1:
    raise ValueError('a comma is missing or one too many')
  return [value for _, value in values]


def _tokens(text: str) -> list[tuple[str, object]]:
  tokens = []
  at = 0
  while at < len(text):
    match = _TOKEN.match(text, at)
    if match is None:
      raise ValueError(f'unexpected {text[at : at + 20]!r}')
    tokens.append((match.lastgroup, _value(match)))
    at = match.end()
  return tokens


def _value(match: re.Match):
  kind = match.lastgroup
  token = match[kind]
  if kind == 'text':
    return _ESCAPE.sub(lambda m: _ESCAPES.get(m[1], m[1]), token[1:-1])
  if kind == 'number':
    if token.lstrip('+-').isdigit():
      return int(token)
    return float(token)
  if kind == 'word':
    return _WORDS[token]
  return token
