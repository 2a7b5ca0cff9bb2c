"""An MCP server that runs Python in the sandbox. Nothing runs outside it.

python -m agents.mcp.servers.python --workers=4
"""

import contextlib
import dataclasses
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from core.launch import command
from core.launch.fields import field

if TYPE_CHECKING:
  from mcp.server.mcpserver import MCPServer

MAX_CODE = 200_000  # characters


class Result(Protocol):
  """What a pool says of one run."""

  status: str
  stdout: str
  stderr: str
  seconds: float


class Pool(Protocol):
  """The part of `agents.sandbox.Pool` that is used here."""

  def run(self, code: str, stdin: str = '') -> Result: ...


def build(pool: Pool) -> 'MCPServer':
  """The server over a pool of isolated workers."""
  import anyio
  from mcp.server.mcpserver import MCPServer

  server = MCPServer('python', log_level='WARNING')

  async def run_python(code: str, stdin: str = '') -> str:
    """Runs a Python program in an isolated process without network and returns what it printed.

    numpy, scipy and sympy can be imported. Nothing is kept from one call to the next. Print what you want to see.
    """
    if len(code) > MAX_CODE:
      return f'status: refused\nthe program has {len(code)} characters, more than {MAX_CODE}'
    # A call that is given up leaves its thread to the pool's own time limit.
    result = await anyio.to_thread.run_sync(pool.run, code, stdin, abandon_on_cancel=True)
    return report(result)

  server.add_tool(run_python, structured_output=False)
  return server


def report(result: Result) -> str:
  """A result as text: output first, then errors, then how it ended unless well."""
  parts = []
  if result.stdout.strip():
    parts = [result.stdout.rstrip('\n')]
  if result.stderr.strip():
    parts.append(f'stderr:\n{result.stderr.rstrip()}')
  if result.status != 'ok':
    parts.append(f'status: {result.status} after {result.seconds:.1f} s')
  return '\n'.join(parts) or '(no output)'


@dataclasses.dataclass(frozen=True)
class Options:
  """The program's flags."""

  workers: int = field(4, 'programs at a time', low=1)


def work(options: Options) -> None:
  """Serves a sandbox over standard input and output."""
  from agents.sandbox import Pool as Sandbox

  with contextlib.closing(Sandbox(options.workers)) as pool:
    build(pool).run()


def main(argv: Sequence[str]) -> int:
  """Runs the program; returns its exit status."""
  return command.run(argv, __doc__, Options, work)


if __name__ == '__main__':
  sys.exit(main(sys.argv))
