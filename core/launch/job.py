"""Config jobs: programs whose flags are the fields of a named config dataclass.

A binary is a module with a docstring and

    if __name__ == '__main__':
      launch.run(main, configs.CONFIGS, default='tiny')

where `CONFIGS` maps a name to a frozen dataclass (nested ones allowed) and `main(config, workdir)` does the work.
`--config=name` picks one, `--config.optim.lr=1e-5` overrides any field, `--config.rule=gspo` picks a named value of a
field that has some, `--help` lists every field. The order of the flags has no effect.
"""

import dataclasses
import logging as stdlib_logging
import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from absl import flags, logging

from core.launch import distributed, fields, origin, process, usage
from core.launch import options as options_lib
from core.launch.errors import UsageError, exit_status, one_line
from core.launch.fields import field

PREFIX = 'config.'


@dataclasses.dataclass(frozen=True)
class Options(distributed.Distributed, process.Kept):
  """The flags of every job besides --config."""

  workdir: str | None = field(None, 'folder for metrics, checkpoints and reports; default runs/<config>')
  verbosity: int = field(
    0, '0 logs progress, 1 also where an error was raised and what JAX and Orbax do, -1 only warnings', low=-3, high=1
  )


class Parsed(NamedTuple):
  """What a command line asks for: a config with its name, and the other flags."""

  name: str
  config: Any
  options: Any


def parse(configs: Mapping[str, Any], default: str, argv: Sequence[str], *, options: type = Options) -> Parsed:
  """What `argv`, program name first, asks for.

  Raises UsageError, with one clear line, for an unknown config, field or flag, a value of the wrong type, and a
  combination that the config's own checks refuse.
  """
  name = options_lib.given(argv[1:], 'config') or default
  if name not in configs:
    known = ', '.join(configs)
    raise UsageError(f'--config={name}: no such config{options_lib.guess(name, configs)} (known: {known})')
  base, chosen = options_lib.choose(configs[name], argv[1:], prefix=PREFIX)
  _check_names(name, base, argv[1:], chosen)
  values = flags.FlagValues()
  flags.DEFINE_string('config', default, 'config name', flag_values=values)
  options_lib.define(values, options)
  options_lib.define(values, base, prefix=PREFIX)
  options_lib.define_choices(values, dict(fields.named(base)), prefix=PREFIX)
  rest = options_lib.parse(values, list(argv))
  if rest:
    raise UsageError(f'{rest[0]!r}: expected only flags')
  try:
    return Parsed(name, options_lib.read(values, base, prefix=PREFIX), options_lib.read(values, options))
  except ValueError as error:
    raise UsageError(one_line(error)) from error


def _check_names(name: str, config, argv: Sequence[str], chosen: set[str]) -> None:
  """Raises UsageError for a field that the config does not have."""
  known = [leaf.name for leaf in fields.leaves(config)]
  for path in options_lib.set_fields(argv, PREFIX):
    if path in known or path in chosen:
      continue
    is_group = any(k.startswith(f'{path}.') for k in known)
    hint = '; it is a group of fields: set one of them' if is_group else options_lib.guess(path, known)
    raise UsageError(f'--config.{path}: config {name!r} has no such field{hint}')


def help_text(doc: str, configs: Mapping[str, Any], name: str, *, options: type = Options) -> str:
  """The text of --help: flags, configs, and every field of the config called `name`."""
  return usage.page(
    doc,
    ('Flags:', [f'  --config={name}: one of {", ".join(configs)}', *usage.field_lines(options, prefix='--')]),
    (f'Fields of --config={name}, set with --config.<field>=<value>:', usage.field_lines(configs[name])),
  )


def _worth_reading(record) -> bool:
  """Drops the forty lines that orbax logs for every checkpoint, and what JAX says where there is no TPU."""
  quiet = '/orbax/' in record.pathname or record.pathname.endswith('/jax/_src/xla_bridge.py')
  return record.levelno >= stdlib_logging.WARNING or not quiet


def _start_logging(verbosity: int) -> None:
  logging.use_absl_handler()
  if verbosity < 1:
    logging.get_absl_handler().addFilter(_worth_reading)
  logging.set_verbosity(verbosity)


def _start(options: Options) -> None:
  """Logging, then the other processes, then a line about the devices."""
  _start_logging(options.verbosity)
  if not flags.FLAGS.is_parsed():  # libraries such as grain read absl's global flags
    flags.FLAGS.mark_as_parsed()
  distributed.start(options)
  import jax

  logging.info(
    'process %d of %d: %d local and %d global %s devices',
    jax.process_index(),
    jax.process_count(),
    jax.local_device_count(),
    jax.device_count(),
    jax.default_backend(),
  )


def run(main: Callable[[Any, pathlib.Path], Any], configs: Mapping[str, Any], default: str) -> None:
  """Parses the command line, joins the cluster, calls `main(config, workdir)` and exits with its status."""
  sys.exit(status(main, configs, default, sys.argv, sys.modules['__main__'].__doc__ or ''))


def status(
  main: Callable[[Any, pathlib.Path], Any], configs: Mapping[str, Any], default: str, argv: Sequence[str], doc: str
) -> int:
  """The exit status of a job run with `argv`, as `errors.exit_status` gives it; 0 for --help."""

  def work() -> None:
    if options_lib.wants_help(argv[1:]):
      asked = options_lib.given(argv[1:], 'config')
      print(help_text(doc, configs, asked if asked in configs else default))
      return
    name, config, options = parse(configs, default, argv)
    origin.check()
    process.keep(options, main)
    _start(options)
    process.freeze(main)
    try:
      main(config, pathlib.Path(options.workdir or f'runs/{name}'))
    except (ValueError, OSError, ModuleNotFoundError):
      logging.debug('', exc_info=True)  # --verbosity=1 shows where it was raised
      raise

  return exit_status(work)
