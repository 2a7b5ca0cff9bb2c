"""Programs with plain flags: a dataclass of options, `--name=value`, one line for every user error.

@dataclasses.dataclass(frozen=True)
class Options:
  model: str | None = field(None, 'folder of a checkpoint')

  def __post_init__(self):
    if not self.model:
      raise ValueError('--model=FOLDER is needed')

def work(options) -> int: ...

if __name__ == '__main__':
  sys.exit(command.run(sys.argv, __doc__, Options, work))
"""

from collections.abc import Callable, Sequence
from typing import Any

from absl import flags

from core.launch import options as options_lib
from core.launch import origin, process, usage
from core.launch.errors import UsageError, exit_status, one_line
from core.launch.fields import leaves


def parse(argv: Sequence[str], options: type) -> Any:
  """The options that `argv` (program name first) asks for. Raises UsageError in one line."""
  return _parse(argv, options)[0]


def _parse(argv: Sequence[str], options: type) -> tuple[Any, process.Kept]:
  """The options of the program, and those of every program."""
  values = flags.FlagValues()
  options_lib.define(values, options)
  options_lib.define(values, process.Kept)
  rest = options_lib.parse(values, list(argv))
  if rest and not any(leaf.positional for leaf in leaves(options)):
    raise UsageError(f'{rest[0]!r}: expected only flags')
  try:
    return options_lib.read(values, options, rest=tuple(rest)), options_lib.read(values, process.Kept)
  except ValueError as error:
    raise UsageError(f'{one_line(error)}; see --help') from error


def run(
  argv: Sequence[str],
  doc: str,
  options: type,
  work: Callable[[Any], int | None],
  *,
  errors: Sequence[type[Exception]] = (),
  interrupted: str = '',
) -> int:
  """Parses the command line, works, and returns the exit status as `errors.exit_status` gives it; 0 for --help."""

  def parse_and_work() -> int | None:
    if options_lib.wants_help(argv[1:]):
      shared = usage.field_lines(process.Kept, prefix='--')
      print(usage.page(doc, ('Flags:', [*usage.field_lines(options, prefix='--'), *shared])))
      return 0
    parsed, shared = _parse(argv, options)
    origin.check()
    process.keep(shared, work)
    process.freeze(work)
    return work(parsed)

  return exit_status(parse_and_work, errors=errors, interrupted=interrupted)
