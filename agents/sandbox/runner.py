"""Runs one snippet in the forked child, as a notebook would: the value of a trailing expression is printed.

The expression is evaluated once, and a failing repr is an error like any other. Errors are told in two lines on
stderr, type, line and message, then the line itself; rStar2-Agent (arXiv 2508.20722) shows the model such texts.
"""

import ast
import atexit
import io
import linecache
import os
import sys
import threading
import traceback
import types

MAIN = '__main__'


def fresh_main() -> dict:
  """A new, empty `__main__`, and its namespace."""
  sys.modules[MAIN] = module = types.ModuleType(MAIN)
  module.__dict__['__builtins__'] = __builtins__
  return module.__dict__


def attach_streams(stdin: bytes | None = None) -> None:
  """Text streams over descriptors 0, 1 and 2; standard input from `stdin` when given."""
  raw = io.BytesIO(stdin) if stdin is not None else io.FileIO(0, 'r', closefd=False)
  sys.stdin = sys.__stdin__ = io.TextIOWrapper(
    io.BufferedReader(raw) if stdin is None else raw, encoding='utf-8', errors='surrogateescape'
  )
  for fd, name, errors in ((1, 'stdout', 'strict'), (2, 'stderr', 'backslashreplace')):
    writer = io.BufferedWriter(io.FileIO(fd, 'w', closefd=False))
    stream = io.TextIOWrapper(writer, encoding='utf-8', errors=errors, line_buffering=fd == 2)
    setattr(sys, name, stream)
    setattr(sys, f'__{name}__', stream)


def execute(source: bytes, namespace: dict, label: str = '<snippet>') -> int:
  """Runs the source; returns the exit code that Python would have given: 0, 1, or what `exit` was given.

  The one place of the project where text is run: called in a process that was forked for it, after `BACKENDS` has shut
  it in.
  """
  try:
    text = source.decode('utf-8')
    linecache.cache[label] = (len(text), None, text.splitlines(keepends=True), label)
    tree = compile(text, label, 'exec', ast.PyCF_ONLY_AST)
    last = None
    if tree.body and isinstance(tree.body[-1], ast.Expr):
      last = tree.body.pop()
    exec(compile(tree, label, 'exec'), namespace)
    if last is not None:
      value = eval(compile(ast.Expression(last.value), label, 'eval'), namespace)
      if value is not None:
        print(repr(value))
  except SystemExit as stop:
    return _exit_code(stop.code)
  except BaseException as error:
    _tell(error, label)
    return 1
  return 0


def finish(code: int) -> None:
  """Ends the process as the interpreter would: waits for threads, runs what was registered, flushes."""
  try:
    threading._shutdown()
    atexit._run_exitfuncs()
  except BaseException as error:
    _tell(error, '<snippet>')
    code = code or 1
  flush()
  os._exit(code)


def flush() -> None:
  """Flushes what the snippet left of its streams."""
  for stream in (sys.stdout, sys.stderr):
    try:
      if stream is not None:
        stream.flush()
    except BaseException as error:  # the snippet closed or replaced it: its own affair, but told
      os.write(2, f'{type(error).__name__} when flushing\n'.encode()) if _open(2) else None


def _open(fd: int) -> bool:
  try:
    os.fstat(fd)
  except OSError:
    return False
  return True


def _exit_code(code: object) -> int:
  """The exit code of `exit(code)`."""
  if code is None:
    return 0
  if isinstance(code, int):
    return code & 0xFF
  print(code, file=sys.stderr)
  return 1


def _tell(error: BaseException, label: str) -> None:
  """Prints `Type at line n: message` and the line, from the innermost frame of the snippet."""
  try:
    message = str(error)
  except BaseException:
    message = '(the message cannot be shown)'
  line = text = None
  if isinstance(error, SyntaxError) and error.filename == label:
    line = error.lineno
    text = error.text
    message = error.msg
  else:
    for frame, number in traceback.walk_tb(error.__traceback__):
      if frame.f_code.co_filename == label:
        line = number
        text = linecache.getline(label, number)
  where = f' at line {line}' if line else ''
  shown = f'{type(error).__name__}{where}: {message}\n'
  if text and text.strip():
    shown += f'    {text.strip()}\n'
  try:
    sys.stderr.write(shown)
  except BaseException:  # the snippet took stderr away
    if _open(2):
      os.write(2, shown.encode('utf-8', 'backslashreplace'))
