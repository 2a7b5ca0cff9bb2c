"""From a command line to a config dataclass: absl flags, ml_collections overrides, one-line errors.

A binary is a module with a docstring and

    if __name__ == '__main__':
      launch.run(main, configs.CONFIGS, default='tiny')

where `CONFIGS` maps a name to a frozen dataclass (nested ones allowed) and `main(config, workdir)` does the
work. `--config=name` picks, `--config.optim.lr=1e-5` overrides any field, `--help` lists every field.
"""

import ast
import contextlib
import dataclasses
import difflib
import functools
import logging as stdlib_logging
import pathlib
import sys
import textwrap
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, Literal

from absl import app, flags, logging
from ml_collections import config_flags


class UsageError(ValueError):
  """The command line asks for something that does not exist or cannot be."""


# Values and annotations.


def _spell(kind) -> str:
  """An annotation as a reader would write it."""
  if kind is type(None):
    return 'none'
  if typing.get_origin(kind) is Literal:
    return '|'.join(map(str, typing.get_args(kind)))
  if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
    return '|'.join(_spell(k) for k in typing.get_args(kind))
  if typing.get_origin(kind) is tuple:
    return 'tuple[' + ', '.join('...' if k is ... else _spell(k) for k in typing.get_args(kind)) + ']'
  return getattr(kind, '__name__', str(kind))


def _cast(value, kind):
  """`value` (text from the command line, or a parsed item of a tuple) as `kind`; ValueError if it is none."""
  origin, args = typing.get_origin(kind), typing.get_args(kind)
  if isinstance(kind, types.UnionType) or origin is typing.Union:
    # A text field takes any text, so narrower kinds are tried first.
    for option in sorted(args, key=lambda k: k is str):
      try:
        return _cast(value, option)
      except ValueError:
        continue
  elif origin is Literal:
    for option in args:
      if value == option or value == str(option):
        return option
  elif kind is type(None):
    if value is None or (isinstance(value, str) and value.lower() == 'none'):
      return None
  elif origin is tuple or kind is tuple:
    return _cast_tuple(value, args)
  elif kind is bool:
    if str(value).lower() in ('true', 'false', '1', '0'):
      return str(value).lower() in ('true', '1')
  elif kind is str and isinstance(value, str):
    return value
  elif kind in (int, float) and not isinstance(value, bool):
    with contextlib.suppress(ValueError):  # what it says is less clear than what comes below
      number = kind(value) if isinstance(value, str) else value
      if kind is float or isinstance(number, int):
        return kind(number)
  raise ValueError(f'{value!r} is not {_spell(kind)}')


def _cast_tuple(value, kinds):
  """`(1, 2)`, `1,2` or one item as a tuple whose items have `kinds`."""
  if isinstance(value, str):
    try:
      value = ast.literal_eval(value.strip())
    except (ValueError, SyntaxError):
      value = tuple(item.strip() for item in value.strip('()[]').split(',') if item.strip())
  items = tuple(value) if isinstance(value, (tuple, list)) else (value,)
  if not kinds:
    return items
  if kinds[-1] is ...:
    kinds = (kinds[0],) * len(items)
  if len(kinds) != len(items):
    raise ValueError(f'{items!r} has {len(items)} items: expected {len(kinds)}')
  return tuple(_cast(item, kind) for item, kind in zip(items, kinds))


# A frozen config as the mutable dataclass that config_flags can set fields of, and back.


class _Parser(flags.ArgumentParser):
  """Reads one field by its annotation."""

  def __init__(self, kind):
    self.kind = kind

  def parse(self, argument):
    return _cast(argument, self.kind) if isinstance(argument, str) else argument

  def flag_type(self):
    return _spell(self.kind)


@functools.cache
def _token(kind):
  """A type that stands for the annotation `kind` in config_flags' table of parsers."""
  if kind is bool:  # known to absl, which gives it the --nofield form
    return bool
  token = type(_spell(kind), (), {})
  config_flags.register_flag_parser_for_type(token, _Parser(kind))
  return token


def _thaw(config):
  """A mutable dataclass with the fields of the frozen `config`, in which tokens stand for annotations."""
  kinds = typing.get_type_hints(type(config))
  values = {f.name: getattr(config, f.name) for f in dataclasses.fields(config) if f.init}
  values = {k: _thaw(v) if dataclasses.is_dataclass(v) else v for k, v in values.items()}
  spec = [(k, type(v) if dataclasses.is_dataclass(v) else _token(kinds[k])) for k, v in values.items()]
  return dataclasses.make_dataclass(type(config).__name__, spec)(**values)


def _freeze(thawed, like):
  """A config of the type of `like` with the values of `thawed`; its checks run again."""
  values = {f.name: getattr(thawed, f.name) for f in dataclasses.fields(thawed)}
  return type(like)(
    **{k: _freeze(v, getattr(like, k)) if dataclasses.is_dataclass(v) else v for k, v in values.items()}
  )


def fields(config, prefix=''):
  """Yields (dotted name, annotation, value, meaning) of every leaf field of a config."""
  kinds = typing.get_type_hints(type(config))
  for f in dataclasses.fields(config):
    value = getattr(config, f.name)
    if dataclasses.is_dataclass(value):
      yield from fields(value, f'{prefix}{f.name}.')
    else:
      yield f'{prefix}{f.name}', kinds[f.name], value, f.metadata.get('meaning', '')


# The command line.


def _guess(name, known) -> str:
  near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
  return f'; did you mean {near[0]!r}?' if near else ''


def _config_name(argv, default) -> str:
  """What --config says, in either of absl's two forms."""
  name = default
  for i, arg in enumerate(argv):
    if arg == '--':
      break
    bare = '--' + arg.lstrip('-') if arg.startswith('-') else ''
    if bare.startswith('--config='):
      name = bare.removeprefix('--config=')
    elif bare == '--config' and i + 1 < len(argv):
      name = argv[i + 1]
  return name


def _overridden(argv):
  """The dotted field names that the command line sets."""
  for arg in argv:
    if arg.startswith('-'):
      name = arg.lstrip('-').split('=', 1)[0]
      for prefix in ('config.', 'noconfig.'):
        if name.startswith(prefix):
          yield name.removeprefix(prefix)


def define(values: flags.FlagValues) -> None:
  """The flags that every binary has besides --config."""
  flags.DEFINE_string(
    'workdir', None, 'folder for metrics, checkpoints and reports; default runs/<config>', flag_values=values
  )
  flags.DEFINE_enum(
    'distributed',
    'auto',
    ['auto', 'off'],
    'start jax.distributed from the flags below or the cluster around us, or never',
    flag_values=values,
  )
  flags.DEFINE_string('coordinator_address', None, 'host:port of process 0', flag_values=values)
  flags.DEFINE_integer('num_processes', None, 'number of processes in the job', 1, flag_values=values)
  flags.DEFINE_integer('process_id', None, 'which of them this is', 0, flag_values=values)


def parse(
  configs: Mapping[str, Any], default: str, argv: list[str], values: flags.FlagValues = flags.FLAGS
) -> tuple[Any, list[str]]:
  """The config that `argv` (program name first) asks for, and the arguments left over.

  Raises UsageError, with one clear line, for an unknown config, field or flag, a value of the wrong type, and
  a combination that the config's own checks refuse.
  """
  name = _config_name(argv[1:], default)
  if name not in configs:
    raise UsageError(f'--config={name}: no such config{_guess(name, configs)} (known: {", ".join(configs)})')
  known = {n: kind for n, kind, _, _ in fields(configs[name])}
  for override in _overridden(argv[1:]):
    if override not in known:
      inner = f'{override}.'
      hint = (
        '; it is a group of fields: set one of them'
        if any(k.startswith(inner) for k in known)
        else _guess(override, known)
      )
      raise UsageError(f'--config.{override}: config {name!r} has no such field{hint}')
  define(values)
  try:
    config_flags.DEFINE_config_dataclass(
      'config', _thaw(configs[name]), 'config name', values, sys_argv=argv, parse_fn=lambda text: _thaw(configs[text])
    )
    rest = values(argv)
    given = [values[f].value for f in ('coordinator_address', 'num_processes', 'process_id')]
    if any(g is not None for g in given) and None in given:
      raise UsageError('--coordinator_address, --num_processes and --process_id go together')
    return _freeze(values.config, configs[name]), rest
  except (flags.Error, ValueError, TypeError) as error:
    raise UsageError(' '.join(str(error).split())) from error


def usage(doc: str, configs: Mapping[str, Any], name: str) -> str:
  """The text of --help: flags, configs, and every field of the config called `name`."""
  values = flags.FlagValues()
  define(values)
  lines = [doc.strip(), '', 'Flags:', f'  --config={name}: one of {", ".join(configs)}']
  lines += [f'  --{f}: {values[f].help}' for f in values]
  lines += ['', f'Fields of --config={name}, set with --config.<field>=<value>:']
  for path, kind, value, meaning in fields(configs[name]):
    lines.append(f'  {path}: {_spell(kind)} = {value!r}')
    lines += textwrap.wrap(meaning, 100, initial_indent='      ', subsequent_indent='      ')
  return '\n'.join(lines)


def start_distributed(values: flags.FlagValues = flags.FLAGS) -> None:
  """Joins the other processes, if there are any; must come before JAX looks for devices."""
  if values.distributed == 'off':
    return
  from core import mesh

  try:
    mesh.start(values.coordinator_address, values.num_processes, values.process_id)
  except ValueError as error:
    # JAX's answer when nothing around us looks like a cluster; after an explicit address it is a real error.
    if values.coordinator_address or 'coordinator_address' not in str(error):
      raise


def _worth_reading(record) -> bool:
  """Passes over the forty lines that orbax logs for every checkpoint."""
  return record.levelno >= stdlib_logging.WARNING or '/orbax/' not in record.pathname


@contextlib.contextmanager
def one_line():
  """What a user can mend, a ValueError, an OSError or a missing extra, ends the program with one line and status 1."""
  try:
    yield
  except ModuleNotFoundError as error:
    raise SystemExit(f'error: {error.name} is not installed; one of the extras of espalier-jax brings it') from error
  except (ValueError, OSError) as error:
    logging.debug('', exc_info=True)  # --verbosity=1 shows where it was raised
    raise SystemExit(f'error: {error}') from error


def run(main: Callable[[Any, pathlib.Path], Any], configs: Mapping[str, Any], default: str) -> None:
  """Parses the command line, joins the cluster, and calls `main(config, workdir)`; exits 2 on bad usage."""
  doc = sys.modules['__main__'].__doc__ or ''

  def read(argv):
    if {'--help', '-h', '-help', '--helpfull', '--helpshort'} & set(argv):
      name = _config_name(argv[1:], default)
      print(usage(doc, configs, name if name in configs else default))
      sys.exit(0)
    try:
      chosen, rest = parse(configs, default, argv)
      if rest[1:]:
        raise UsageError(f'{rest[1]!r}: expected only flags')
    except UsageError as error:
      print(f'error: {error}', file=sys.stderr)
      sys.exit(2)
    return chosen

  def go(config):
    logging.use_absl_handler()
    logging.get_absl_handler().addFilter(_worth_reading)
    start_distributed()
    import jax

    logging.info(
      'process %d of %d: %d local and %d global %s devices',
      jax.process_index(),
      jax.process_count(),
      jax.local_device_count(),
      jax.device_count(),
      jax.default_backend(),
    )
    name = _config_name(sys.argv[1:], default)
    with one_line():
      main(config, pathlib.Path(flags.FLAGS.workdir or f'runs/{name}'))

  app.run(go, flags_parser=read)
