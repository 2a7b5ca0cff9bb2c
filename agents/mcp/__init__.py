"""Tools over the Model Context Protocol: a client that outlives its servers, and servers of our own."""

from agents.mcp.client import McpTools, read_config

__all__ = ['McpTools', 'read_config']
