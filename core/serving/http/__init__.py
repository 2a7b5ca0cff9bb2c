"""The HTTP side of servers: who may call, bodies, connections, responses, streams. ASGI, without dependencies."""
