"""MCP servers as a toolbox: one process a server, started again when it dies, never waited for longer than asked.

Everything asynchronous lives in one thread with its own event loop; `schemas` and `call` may be used from any thread.
"""

import asyncio
import concurrent.futures
import dataclasses
import json
import logging
import os
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from mcp import Client, MCPError, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.server.mcpserver import MCPServer

from agents.toolbox import Observation, schema
from core.text import clean, parse_json

MAX_TOOLS = 500  # of one server
MAX_JUNK = 1000  # lines that are no messages, before a server is given up
MARGIN = 10.0  # seconds beyond a call's own, in which the loop must have answered


class ServerFailed(RuntimeError):
  """A server that cannot be started, or lists tools that cannot be used."""


@dataclasses.dataclass
class _Connection:
  """A running server. Lives in the loop's thread; `close` lets its task end once no call is pending."""

  client: Client
  tools: dict[str, dict]
  close: asyncio.Event
  pending: int = 0
  dying: bool = False

  def retire(self) -> None:
    self.dying = True
    if not self.pending:
      self.close.set()


class McpTools:
  """The tools of several servers under their own names. A context manager; leaving it ends every server.

  servers: name → command (StdioServerParameters), address (str, Streamable HTTP) or MCPServer of this process.
  start_seconds: for a server to start and list its tools. restarts: how often each server is started again. log:
  where the servers' own messages go. Raises ServerFailed when one does not start or two tools share a name.
  """

  def __init__(
    self,
    servers: Mapping[str, StdioServerParameters | MCPServer | str],
    *,
    start_seconds: float = 60.0,
    restarts: int = 20,
    log: TextIO | None = None,
  ):
    self._servers = dict(servers)
    self._start_seconds = start_seconds
    self._log = log or sys.__stderr__  # a notebook's sys.stderr is no file
    self._left = dict.fromkeys(servers, restarts)
    self._live: dict[str, _Connection] = {}
    self._starting: dict[str, asyncio.Lock] = {}
    self._tasks: set[asyncio.Task] = set()
    self._loop = asyncio.new_event_loop()
    self._thread = threading.Thread(target=self._loop.run_forever, name='mcp', daemon=True)
    self._thread.start()
    try:
      self._owner = self._run(self._start_all(), start_seconds * max(1, len(self._servers)) + MARGIN)
    except BaseException:
      self.close()
      raise

  def schemas(self) -> list[dict]:
    """Every tool as the chat-completions interface describes it, as listed when its server first started."""
    return [tool for _, tool in self._owner.values()]

  def call(self, name: str, arguments: Mapping[str, Any], timeout: float) -> Observation:
    """Calls a tool. A crash, a stall, junk or an error is an observation that says so. Raises KeyError for no tool."""
    server = self._owner[name][0]
    try:
      return self._run(self._call(server, name, dict(arguments), timeout), timeout + self._start_seconds + MARGIN)
    except concurrent.futures.TimeoutError:
      return Observation(f'{name}: no answer within {timeout:g} s', True)

  def close(self) -> None:
    """Ends the servers and the thread."""
    if self._loop.is_closed():
      return
    self._run(self._stop_all(), 30.0)
    self._loop.call_soon_threadsafe(self._loop.stop)
    self._thread.join()
    self._loop.close()

  def __enter__(self):
    return self

  def __exit__(self, *exc):
    self.close()

  def _run(self, coroutine, seconds: float):
    return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(seconds)

  async def _start_all(self) -> dict[str, tuple[str, dict]]:
    await asyncio.gather(*map(self._connection, self._servers))
    owner: dict[str, tuple[str, dict]] = {}
    for server, connection in self._live.items():
      for name, tool in connection.tools.items():
        if name in owner:
          raise ServerFailed(f'tool {name!r} is in both {owner[name][0]!r} and {server!r}; leave one server out')
        owner[name] = server, tool
    return owner

  async def _stop_all(self) -> None:
    for connection in self._live.values():
      connection.close.set()
    if self._tasks:
      _, late = await asyncio.wait(self._tasks, timeout=15.0)
      for task in late:
        task.cancel()

  async def _connection(self, server: str) -> _Connection:
    """The running connection of a server, started if there is none. Raises ServerFailed."""
    async with self._starting.setdefault(server, asyncio.Lock()):
      if server in self._live:
        return self._live[server]
      ready = self._loop.create_future()
      task = self._loop.create_task(self._serve(server, ready))
      self._tasks.add(task)
      task.add_done_callback(self._tasks.discard)
      try:
        async with asyncio.timeout(self._start_seconds):
          self._live[server] = await asyncio.shield(ready)
      except TimeoutError:
        task.cancel()
        raise ServerFailed(f'{server}: did not start within {self._start_seconds:g} s') from None
      return self._live[server]

  async def _serve(self, server: str, ready: asyncio.Future) -> None:
    """Owns one server from start to end: its client must be left by the task that entered it."""
    junk = 0

    async def noticed(message) -> None:
      nonlocal junk
      junk += isinstance(message, Exception)
      if junk >= MAX_JUNK and ready.done():
        self._retire(server)

    target = self._servers[server]
    if isinstance(target, StdioServerParameters):
      target = stdio_client(target, errlog=self._log)
    connection = None
    try:
      async with Client(target, message_handler=noticed, read_timeout_seconds=self._start_seconds) as client:
        connection = _Connection(client, await _list_tools(client), asyncio.Event())
        ready.set_result(connection)
        await connection.close.wait()
    except Exception as error:  # the SDK raises what its transports do, in groups
      if ready.done():  # whoever was waiting for it has been told by the client
        logging.getLogger(__name__).info('%s ended: %s', server, _reason(error))
      else:
        ready.set_exception(ServerFailed(f'{server}: {_reason(error)}'))
    finally:
      if connection is not None and self._live.get(server) is connection:
        del self._live[server]

  def _retire(self, server: str) -> None:
    """Takes a server out of use: the next call restarts it."""
    if connection := self._live.pop(server, None):
      connection.retire()

  async def _call(self, server: str, name: str, arguments: dict, timeout: float) -> Observation:
    if server not in self._live:
      if not self._left[server]:
        return Observation(f'{name}: its server has failed too often and is not started again', True)
      self._left[server] -= 1
    try:
      connection = await self._connection(server)
    except ServerFailed as error:
      return Observation(str(error), True)
    connection.pending += 1
    try:
      async with asyncio.timeout(timeout):
        return _observation(await connection.client.call_tool(name, arguments, read_timeout_seconds=2 * timeout))
    except TimeoutError:
      self._forget(server, connection)
      return Observation(f'{name}: no answer within {timeout:g} s; its server is started again', True)
    except MCPError as error:
      if not await _answers(connection.client):
        self._forget(server, connection)
        return Observation(f'{name}: its server ended during the call ({error}); it is started again', True)
      return Observation(f'{name}: {error}', True)
    except (ValueError, RuntimeError, OSError) as error:  # a reply that is no tool result
      self._forget(server, connection)
      return Observation(f'{name}: not a usable reply ({_reason(error)}); its server is started again', True)
    finally:
      connection.pending -= 1
      if connection.dying:
        connection.retire()

  def _forget(self, server: str, connection: _Connection) -> None:
    if self._live.get(server) is connection:
      self._retire(server)


async def _answers(client: Client) -> bool:
  """Whether the server behind a client still lists its tools."""
  try:
    async with asyncio.timeout(5.0):
      await client.list_tools(cache_mode='bypass')
    return True
  except (MCPError, TimeoutError, ValueError, RuntimeError, OSError):
    return False


async def _list_tools(client: Client) -> dict[str, dict]:
  tools = {}
  cursor = None
  while True:
    page = await client.list_tools(cursor=cursor)
    for tool in page.tools:
      tools[tool.name] = schema(tool.name, clean(tool.description or ''), tool.input_schema)
    cursor = page.next_cursor
    if len(tools) > MAX_TOOLS:
      raise ServerFailed(f'more than {MAX_TOOLS} tools')
    if not cursor or not page.tools:
      return tools


def _observation(result) -> Observation:
  """The parts as text, one below the other, or the structured content where there is no part; `failed` as flagged."""
  parts = [_part(part) for part in result.content]
  structured = getattr(result, 'structured_content', None)
  if not parts and structured is not None:
    parts = [json.dumps(structured, ensure_ascii=False)]
  return Observation(clean('\n'.join(parts)), bool(result.is_error))


def _part(part) -> str:
  """A content part: its text, also of an embedded resource; type and size of other data; the URI of a link."""
  if part.type == 'text':
    return part.text
  if part.type in ('image', 'audio'):
    return f'[{part.type}: {part.mime_type}, {_bytes(part.data)} bytes]'
  if part.type == 'resource_link':
    return f'[resource {part.name}: {part.uri}]'
  if part.type != 'resource':
    return f'[{part.type}]'
  held = part.resource
  text = getattr(held, 'text', None)
  if text is not None:
    return f'[resource {held.uri}]\n{text}'
  return f'[resource {held.uri}: {_bytes(held.blob)} bytes]'


def _bytes(base64: str) -> int:
  return len(base64) * 3 // 4


def _reason(error: BaseException) -> str:
  """The innermost message of an exception, or of the first in a group."""
  while isinstance(error, BaseExceptionGroup):
    error = error.exceptions[0]
  one_line = ' '.join(str(error).split())
  return f'{type(error).__name__}: {one_line[:500]}'


def read_config(path: str | os.PathLike) -> dict[str, StdioServerParameters | str]:
  """Servers of a file {"mcpServers": {name: {"command", "args"?, "env"?, "cwd"?} or {"url"}}}.

  Raises ValueError naming what is wrong, FileNotFoundError when there is no file.
  """
  try:
    listed = parse_json(Path(path).read_text(encoding='utf-8'))['mcpServers'].items()
    found = {}
    for name, entry in listed:
      url = entry.get('url')
      found[name] = url if isinstance(url, str) else StdioServerParameters(**entry)
    return found
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    raise ValueError(f'{path}: not a list of MCP servers ({type(error).__name__}: {error})') from None
