"""The project's own MCP servers, as processes to start."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

SERVERS = ('python', 'documents', 'crawl', 'search')


def check(tools: Sequence[str], *, searx: str | None, corpus: str | None) -> None:
  """Raises ValueError for a name that is not in SERVERS, and for a search without one source."""
  if unknown := set(tools) - set(SERVERS):
    raise ValueError(f'--tools={",".join(sorted(unknown))}: expected some of {", ".join(SERVERS)}')
  if 'search' in tools and bool(searx) == bool(corpus):
    raise ValueError('--tools=search needs one of --searx and --corpus')


def servers(
  tools: Sequence[str], root: str | os.PathLike, *, searx: str | None = None, corpus: str | None = None
) -> dict[str, Any]:
  """The servers of these names, for `agents.mcp.McpTools`. root: the folder that `documents` reads."""
  from mcp import StdioServerParameters

  source = f'--searx={searx}' if searx else f'--corpus={corpus and os.path.abspath(corpus)}'
  arguments = {'documents': [f'--root={os.path.abspath(root)}'], 'search': [source]}
  # A server imports what this process imports, and is told nothing else of its environment.
  env = {'PYTHONPATH': str(Path(__file__).resolve().parents[1])}
  return {
    name: StdioServerParameters(
      command=sys.executable, env=env, args=['-m', f'agents.mcp.servers.{name}', *arguments.get(name, [])]
    )
    for name in tools
  }


def with_others(own: dict[str, Any], config: str | None) -> dict[str, Any]:
  """`own` and the servers of an MCP configuration file. Raises ValueError for a name that both have."""
  from agents.mcp import read_config

  others = read_config(config) if config else {}
  if both := own.keys() & others.keys():
    raise ValueError(f'{config}: the servers {sorted(both)} are named like those of --tools')
  return own | others
