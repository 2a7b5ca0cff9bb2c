"""Numbers of a server in the text format that Prometheus reads."""

import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Literal

CONTENT_TYPE = 'text/plain; version=0.0.4; charset=utf-8'
_NAME = re.compile(r'[a-zA-Z_:][a-zA-Z0-9_:]*')


@dataclasses.dataclass(frozen=True)
class Sample:
  """One number; samples of one name differ in their labels."""

  name: str
  value: float
  kind: Literal['counter', 'gauge'] = 'gauge'
  meaning: str = ''
  labels: Mapping[str, str] = dataclasses.field(default_factory=dict)

  def __post_init__(self):
    for name in (self.name, *self.labels):
      if not _NAME.fullmatch(name):
        raise ValueError(f'{name!r}: expected letters, digits and underscores')


def _escaped(text: str) -> str:
  return text.replace('\\', r'\\').replace('"', r'\"').replace('\n', r'\n')


def _line(sample: Sample) -> str:
  pairs = [f'{name}="{_escaped(value)}"' for name, value in sample.labels.items()]
  labels = ','.join(pairs)
  if labels:
    return f'{sample.name}{{{labels}}} {float(sample.value)!r}'
  return f'{sample.name} {float(sample.value)!r}'


def text(samples: Iterable[Sample]) -> str:
  """All samples, those of one name together under its type and meaning."""
  named: dict[str, list[Sample]] = {}
  for sample in samples:
    named.setdefault(sample.name, []).append(sample)
  lines = []
  for name, group in named.items():
    meaning = group[0].meaning.replace('\\', r'\\').replace('\n', r'\n')
    lines += [f'# HELP {name} {meaning}'] if meaning else []
    lines += [f'# TYPE {name} {group[0].kind}', *map(_line, group)]
  return '\n'.join(lines) + '\n'
