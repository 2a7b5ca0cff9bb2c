"""An MCP server whose tools fail in the ways that tools do; started by tests as a process of its own."""

import os
import sys
import time

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError

server = MCPServer('bad', log_level='CRITICAL')


@server.tool()
def echo(text: str) -> str:
  """Says it again."""
  return text


@server.tool()
def crash() -> str:
  """Dies."""
  os._exit(3)


@server.tool()
def stall() -> str:
  """Blocks, deaf to everything."""
  time.sleep(600)
  return 'late'


@server.tool()
def large() -> str:
  """10 MB."""
  return 'head' + 'x' * 10_000_000 + 'tail'


@server.tool()
def refuse() -> str:
  """Fails as tools may."""
  raise ToolError('not today')


@server.tool()
def fail() -> str:
  """Fails as tools should not."""
  raise RuntimeError('a secret')


if __name__ == '__main__':
  if '--deaf' in sys.argv:
    time.sleep(600)
  elif '--exit' in sys.argv:
    sys.exit(1)
  else:
    server.run()
