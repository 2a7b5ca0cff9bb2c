"""Fields of config dataclasses; needs no flags library, so that any module can define a config."""

import dataclasses
import typing
from collections.abc import Iterator, Mapping
from typing import Any


def field(
  default: Any,
  meaning: str,
  *,
  low: float | None = None,
  high: float | None = None,
  choices: Mapping[str, Any] | None = None,
  repeated: bool = False,
  positional: bool = False,
) -> Any:
  """A dataclass field with its meaning, which `--help` prints.

  low, high: inclusive bounds of a number, checked when a command line is parsed. choices: named values of a field that
  is itself a dataclass (`--config.rule=gspo`). repeated: each occurrence of the flag adds one item to the tuple.
  positional: the tuple of the arguments that are not flags.
  """
  metadata = {
    'meaning': meaning,
    'low': low,
    'high': high,
    'choices': choices,
    'repeated': repeated,
    'positional': positional,
  }
  return dataclasses.field(default=default, metadata=metadata)


def fixed(value: Any) -> Any:
  """A field of the base class that a subclass leaves at one value: no flag sets it, and `--help` is silent on it."""
  return dataclasses.field(default=value, init=False)


@dataclasses.dataclass(frozen=True)
class Leaf:
  """A field that one flag sets: its dotted name, annotation, default value and what `field` says of it."""

  name: str
  kind: Any
  value: Any
  meaning: str = ''
  low: float | None = None
  high: float | None = None
  repeated: bool = False
  positional: bool = False


_SAID = frozenset(f.name for f in dataclasses.fields(Leaf)) - {'name', 'kind', 'value'}


def _settable(config) -> list[tuple[dataclasses.Field, Any]]:
  """The fields of a config, or of its class (then with their defaults), and their values."""
  return [(f, getattr(config, f.name)) for f in dataclasses.fields(config) if f.init]


def leaves(config, prefix: str = '') -> Iterator[Leaf]:
  """Every leaf field of a config, or of its class, depth first."""
  kinds = typing.get_type_hints(config if isinstance(config, type) else type(config))
  for f, value in _settable(config):
    name = prefix + f.name
    if dataclasses.is_dataclass(value):
      yield from leaves(value, f'{name}.')
    else:
      about = {k: v for k, v in f.metadata.items() if k in _SAID}
      yield Leaf(name, kinds[f.name], value, **about)


def named(config, prefix: str = '') -> Iterator[tuple[str, Mapping[str, Any]]]:
  """(dotted name, its named values) of every dataclass-valued field that has some."""
  for f, value in _settable(config):
    if dataclasses.is_dataclass(value):
      if f.metadata.get('choices'):
        yield prefix + f.name, f.metadata['choices']
      yield from named(value, f'{prefix}{f.name}.')


def rebuild(config, values: Mapping[str, Any], prefix: str = ''):
  """The config, or one of its class, with the leaves given by dotted name; the checks of each dataclass run again."""
  made = {}
  for f, value in _settable(config):
    name = prefix + f.name
    made[f.name] = rebuild(value, values, f'{name}.') if dataclasses.is_dataclass(value) else values.get(name, value)
  return (config if isinstance(config, type) else type(config))(**made)


def replace_at(config, path: str, value):
  """The config with the field at a dotted path replaced."""
  head, _, rest = path.partition('.')
  inner = value
  if rest:
    inner = replace_at(getattr(config, head), rest, value)
  return dataclasses.replace(config, **{head: inner})
