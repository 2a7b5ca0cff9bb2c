"""Untrusted text and JSON: text becomes valid Unicode, malformed JSON is always a ValueError."""

import json
from typing import Any


def clean(text: str) -> str:
  """`text` with lone surrogates, which UTF-8 cannot carry, replaced."""
  if not text.isascii():
    return text.encode('utf-8', 'replace').decode('utf-8')
  return text


def clean_json(value: Any) -> Any:
  """A JSON value whose strings and keys are `clean`: escapes such as "\\ud800" make lone surrogates of plain ASCII.

  Raises ValueError for a value that is nested too deeply.
  """
  try:
    return _clean_json(value)
  except RecursionError:
    raise ValueError('nested too deeply') from None


def _clean_json(value: Any) -> Any:
  if isinstance(value, str):
    return clean(value)
  if isinstance(value, list):
    return [_clean_json(item) for item in value]
  if isinstance(value, dict):
    return {clean(key): _clean_json(item) for key, item in value.items()}
  return value


def parse_json(text: str) -> Any:
  """`text` as JSON. Raises ValueError for anything malformed or nested too deeply."""
  try:
    return json.loads(text)
  except RecursionError:
    raise ValueError('nested too deeply') from None
