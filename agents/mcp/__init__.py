"""Tools over the Model Context Protocol: a client that outlives its servers, and servers of our own."""

from typing import Any

__all__ = ['McpTools', 'read_config']


def __getattr__(name: str) -> Any:
  # The client needs the extra `agents`; a program must be able to print its help and to say so without it.
  if name in __all__:
    from agents.mcp import client

    return getattr(client, name)
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
