"""MCP servers of our own: `python -m agents.mcp.servers.python`, `.documents`, `.crawl`, `.search`, over stdio."""
