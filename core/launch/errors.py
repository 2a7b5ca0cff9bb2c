"""How a program ends: user errors in one line and an exit status, never a traceback."""

import os
import sys
from collections.abc import Callable, Sequence

from core.launch import extras

USER_ERRORS = (ValueError, OSError)


class UsageError(ValueError):
  """The command line asks for something that does not exist or is impossible."""


def one_line(error: BaseException) -> str:
  """The message of an error on one line."""
  return ' '.join(str(error).split()) or type(error).__name__


def complain(message: str) -> None:
  """One line on standard error."""
  print(f'error: {message}', file=sys.stderr)


def running_program() -> str:
  """The dotted name of the program, as in `python -m name`, or nothing."""
  return getattr(getattr(sys.modules.get('__main__'), '__spec__', None), 'name', '')


def exit_status(
  work: Callable[[], int | None], *, errors: Sequence[type[Exception]] = (), interrupted: str = ''
) -> int:
  """Runs `work` and returns the program's exit status.

  Its own status (None is 0); 2 for a UsageError; 1 for a user error (ValueError, OSError, `errors`) or a package that
  is not installed, whose extra is named; 130 for an interrupt, after the line `interrupted`. Anything else is a bug
  and is raised.
  """
  try:
    return work() or 0
  except UsageError as error:
    complain(one_line(error))
    return 2
  except ModuleNotFoundError as error:
    complain(extras.advice(error.name or one_line(error), running_program()))
    return 1
  except BrokenPipeError:  # the reader, such as `head`, has closed our output
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1
  except (*USER_ERRORS, *errors) as error:
    complain(one_line(error))
    return 1
  except KeyboardInterrupt:
    if interrupted:
      print(interrupted, file=sys.stderr)
    return 130
