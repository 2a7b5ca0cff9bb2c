"""A peer's program in an environment of its own, asked over pipes in lines of JSON."""

import json
import pathlib
import subprocess
import tempfile
from typing import Any

LAST = 2000  # characters of what a peer printed that an error shows


class Peer:
  """`script` under the interpreter `python`; its first line of input is `about`, which it does not answer."""

  def __init__(self, python: str, script: pathlib.Path, about: Any):
    self._printed = tempfile.TemporaryFile('w+')  # noqa: SIM115 -- closed by `close`
    pipes = {'stdin': subprocess.PIPE, 'stdout': subprocess.PIPE, 'stderr': self._printed}
    self._process = subprocess.Popen([python, script], text=True, **pipes)
    self._say(about)

  def ask(self, question: Any) -> Any:
    """The answer to a question. Raises RuntimeError, with what the peer printed last, if it has ended."""
    self._say(question)
    answer = self._process.stdout.readline()
    if not answer:
      raise RuntimeError(f'the peer ended with status {self._process.wait()}:\n{self._last_words()}')
    return json.loads(answer)

  def close(self) -> None:
    """Ends the process."""
    self._process.stdin.close()
    self._process.wait()
    self._printed.close()

  def _say(self, line: Any) -> None:
    try:
      self._process.stdin.write(json.dumps(line) + '\n')
      self._process.stdin.flush()
    except BrokenPipeError:  # it has ended; `ask` says why
      pass

  def _last_words(self) -> str:
    self._printed.seek(0)
    return self._printed.read()[-LAST:]
