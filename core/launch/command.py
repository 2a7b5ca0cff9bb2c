"""A command with plain flags, as users meet it: help, one line for what is wrong, an exit status."""

import sys
from collections.abc import Callable, Sequence
from typing import Any

from absl import flags


def usage(doc: str, values: flags.FlagValues) -> str:
  """The text of --help: the program's own, then its flags."""
  lines = [doc.strip(), '', 'Flags:']
  for name in values:
    flag = values[name]
    default = '' if flag.default in (None, '', []) or flag.boolean else f' (default {flag.default})'
    lines.append(f'  --{name}: {" ".join(flag.help.split())}{default}')
  return '\n'.join(lines)


def run(
  argv: Sequence[str],
  doc: str,
  *,
  define: Callable[[flags.FlagValues], None],
  check: Callable[[flags.FlagValues, list[str]], Any],
  work: Callable[[flags.FlagValues, Any], int],
  mendable: tuple[type[Exception], ...] = (ValueError, OSError),
) -> int:
  """Defines, reads and checks the flags, then works; the exit status.

  define(values) adds the flags, --help among them. check(values, rest) raises flags.Error for what cannot be, which is
  status 2, and returns what `work(values, checked)` takes besides. Errors that a user can mend are one line and status
  1, as is a package that is not installed; an interrupt is 130.
  """
  values = flags.FlagValues()
  define(values)
  try:
    rest = values(list(argv))[1:]
    if values.help:
      print(usage(doc, values))
      return 0
    checked = check(values, rest)
  except flags.Error as error:
    print(f'error: {" ".join(str(error).split())}', file=sys.stderr)
    return 2
  try:
    return work(values, checked)
  except ModuleNotFoundError as error:
    print(f'error: {error.name} is not installed; one of the extras of espalier-jax brings it', file=sys.stderr)
    return 1
  except mendable as error:
    print(f'error: {error}', file=sys.stderr)
    return 1
  except KeyboardInterrupt:
    return 130
