"""Untrusted text and JSON: text becomes valid Unicode, malformed JSON is always a ValueError."""

import json
from typing import Any


def clean(text: str) -> str:
  """`text` with lone surrogates, which UTF-8 cannot carry, replaced."""
  return text.encode('utf-8', 'replace').decode('utf-8') if not text.isascii() else text


def parse_json(text: str) -> Any:
  """`text` as JSON. Raises ValueError for anything malformed or nested too deeply."""
  try:
    return json.loads(text)
  except RecursionError:
    raise ValueError('nested too deeply') from None
