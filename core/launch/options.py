"""Config dataclasses as absl flags: every leaf field is a flag named by its dotted path."""

import difflib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from absl import flags

from core.launch import casting, fields
from core.launch.errors import UsageError, one_line

HELP = frozenset({'--help', '-h', '-help', '--helpfull', '--helpshort'})


def wants_help(argv: Iterable[str]) -> bool:
  """Whether the command line asks for help, in any of the usual spellings."""
  return not HELP.isdisjoint(argv)


class _Parser(flags.ArgumentParser):
  """Reads the text of one field; with `verbatim` a text that may be absent is taken as it is, "none" included."""

  def __init__(self, leaf: fields.Leaf, *, verbatim: bool):
    self.leaf = leaf
    self.verbatim = leaf.repeated or (verbatim and leaf.kind == str | None)

  def parse(self, argument):
    if argument is None:
      return None
    value = argument
    if not self.verbatim:
      value = casting.cast(argument, self.leaf.kind)
    check_bounds(self.leaf, value)
    return value

  def flag_type(self):
    return casting.spell(self.leaf.kind)


def check_bounds(leaf: fields.Leaf, value) -> None:
  """Raises ValueError unless a number is within the bounds of its field; NaN never is."""
  if not isinstance(value, (int, float)) or isinstance(value, bool):
    return
  if leaf.low is not None and not value >= leaf.low:
    raise ValueError(f'expected {leaf.low:g} or more')
  if leaf.high is not None and not value <= leaf.high:
    raise ValueError(f'expected at most {leaf.high:g}')


def define(values: flags.FlagValues, config, *, prefix: str = '') -> None:
  """Adds a flag for every leaf field of a config or config class."""
  for leaf in fields.leaves(config):
    name = prefix + leaf.name
    if leaf.positional:
      continue
    if leaf.kind is bool:  # absl gives these the form --noname
      flags.DEFINE_boolean(name, None, leaf.meaning, flag_values=values)
      continue
    parser = _Parser(leaf, verbatim=not prefix)
    if leaf.repeated:
      flags.DEFINE_multi(parser, flags.ArgumentSerializer(), name, None, leaf.meaning, flag_values=values)
    else:
      flags.DEFINE(parser, name, None, leaf.meaning, flag_values=values)


def read(values: flags.FlagValues, config, *, prefix: str = '', rest: tuple[str, ...] = ()) -> Any:
  """The config with the fields that the parsed flags set and `rest` as its positional field.

  Raises ValueError for a combination that the config's own checks refuse.
  """
  given = {}
  for leaf in fields.leaves(config):
    if leaf.positional:
      given[leaf.name] = rest
    elif values[prefix + leaf.name].present:
      value = values[prefix + leaf.name].value
      given[leaf.name] = tuple(value) if leaf.repeated else value
  return fields.rebuild(config, given)


def parse(values: flags.FlagValues, argv: list[str]) -> list[str]:
  """Reads the flags; the arguments that are not flags. Raises UsageError in one line."""
  try:
    return values(argv)[1:]
  except (flags.Error, ValueError, TypeError) as error:
    raise UsageError(one_line(error)) from error


def given(argv: Iterable[str], name: str) -> str | None:
  """The last value of the flag `name`, in either of absl's two forms, before the flags are parsed."""
  found = None
  before = ''
  for arg in argv:
    if arg == '--':
      break
    if before == name and not arg.startswith('-'):
      found = arg
    flag, has_value, value = '', '', ''
    if arg.startswith('-'):
      flag, has_value, value = arg.lstrip('-').partition('=')
    if flag == name and has_value:
      found = value
    before = '' if has_value else flag
  return found


def set_fields(argv: Iterable[str], prefix: str) -> Iterator[str]:
  """The dotted field names that a command line sets under `prefix`."""
  for arg in argv:
    if not arg.startswith('-'):
      continue
    name = arg.lstrip('-').split('=', 1)[0]
    for start in (prefix, f'no{prefix}'):
      if name.startswith(start):
        yield name.removeprefix(start)


def guess(name: str, known: Iterable[str]) -> str:
  """A hint at the nearest known name, or nothing."""
  near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
  if near:
    return f'; did you mean {near[0]!r}?'
  return ''


def choose(config, argv: Iterable[str], *, prefix: str) -> tuple[Any, set[str]]:
  """The config with its nested dataclasses picked by name where `argv` does, and the dotted names of those fields.

  Raises UsageError for a name that is not among a field's choices.
  """
  argv = list(argv)
  chosen = set()
  for path, choices in list(fields.named(config)):
    name = given(argv, prefix + path)
    if name is None:
      continue
    if name not in choices:
      known = ', '.join(choices)
      raise UsageError(f'--{prefix}{path}={name}: no such choice{guess(name, choices)} (known: {known})')
    config = fields.replace_at(config, path, choices[name])
    chosen.add(path)
  return config, chosen


def define_choices(values: flags.FlagValues, choices: Mapping[str, Mapping[str, Any]], *, prefix: str) -> None:
  """Adds a flag for every field whose value can be picked by name."""
  for path, names in choices.items():
    flags.DEFINE_enum(prefix + path, None, list(names), 'picks a named value', flag_values=values)
