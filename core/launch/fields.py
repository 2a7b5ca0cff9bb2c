"""Fields of config dataclasses; needs no flags library, so that any module can define a config."""

import dataclasses
from typing import Any


def field(default: Any, meaning: str) -> Any:
  """A dataclass field with its meaning, which `--help` prints."""
  return dataclasses.field(default=default, metadata={'meaning': meaning})
