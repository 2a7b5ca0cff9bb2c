"""Tools of a rollout: the response to a call, and a runner that works while the engine decodes."""

import ast
import asyncio
import concurrent.futures
import dataclasses
import re
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Literal

from agents.sandbox import Result
from core.conversations.tool_calls import Call
from core.text import clean

# In addition to `agents.sandbox.STATUSES`: the call was no JSON, named no tool, or raised.
STATUSES = ('undecodable', 'unknown_tool', 'exception')
REASONS = {'timeout': 'worker_timeout', 'harness': 'internal_error', 'memory': 'memory_limit', 'output': 'output_limit'}


@dataclasses.dataclass(frozen=True)
class Response:
  """The text that the model sees of a call, its status, characters omitted, and seconds run and queued."""

  text: str
  status: str
  omitted: int = 0
  seconds: float = 0.0
  queued: float = 0.0

  @property
  def failed(self) -> bool:
    """Whether the call did not succeed."""
    return self.status != 'ok'


@dataclasses.dataclass(frozen=True)
class View:
  """How much of a result the model sees.

  stream: characters kept of each of stdout and stderr, head and tail around a marker. response: characters kept of the
  whole response, or None for all. side: the part of the response to keep ('left': the head). seconds: whether the
  execution time is shown, which makes rollouts differ between runs. released: the bytes of rStar2-Agent's released
  code: the first `stream` characters without a marker, final newlines kept, its line after a timeout, its error texts.
  """

  stream: int = 1000
  response: int | None = None
  side: Literal['middle', 'left', 'right'] = 'middle'
  seconds: bool = True
  released: bool = False

  def __post_init__(self):
    if self.stream < 1 or (self.response is not None and self.response < 1):
      raise ValueError(f'stream={self.stream}, response={self.response}: expected 1 or more')
    if self.side not in ('middle', 'left', 'right'):
      raise ValueError(f'side={self.side!r}: expected middle, left or right')


VIEWS = {
  'default': View(),
  'released': View(response=256, released=True),
  'reproducible': View(seconds=False),
}
_TIMEOUT_LINE = 'Suicide from timeout.\n'  # printed by the released code's guard
_REASONS_RELEASED = {'timeout': 'worker_timeout', 'harness': 'internal_error'}
_ERROR = re.compile(r'(?P<type>\w+) at line (?P<line>\d+): (?P<message>.*)\n    .*\n\Z')


def cut(text: str, most: int) -> tuple[str, int]:
  """(text of at most `most` characters of the original, head and tail around a marker; characters omitted)."""
  omitted = len(text) - most
  if omitted <= 0:
    return text, 0
  tail = most // 2
  head = most - tail
  marker = f'\n[{omitted} characters left out]\n'
  return text[:head] + marker + text[len(text) - tail :], omitted


def _cut_side(text: str, most: int, side: str) -> tuple[str, int]:
  """As `cut`, keeping the side that a `View` names, with the markers of the released code."""
  if len(text) <= most:
    return text, 0
  if side == 'left':
    return text[:most] + '...(truncated)', len(text) - most
  if side == 'right':
    return '(truncated)...' + text[len(text) - most :], len(text) - most
  half = most // 2
  omitted = len(text) - 2 * half
  tail = text[len(text) - half :]
  return f'{text[:half]}...(truncated)...{tail}', omitted


def show(result: Result, view: View = View(), code: str = '') -> Response:
  """A sandbox result as the model sees it (arXiv 2508.20722, released code): status, reason, streams, time.

  code: what was run, from which the released form takes the line of an error.
  """
  if view.released:
    reason = _REASONS_RELEASED.get(result.status, '')
    stdout, stderr, omitted = _released_streams(result, view, code)
  else:
    reason = REASONS.get(result.status, '')
    stdout, out_omitted = cut(result.stdout.rstrip('\n'), view.stream)
    stderr, err_omitted = cut(result.stderr.rstrip('\n'), view.stream)
    omitted = out_omitted + err_omitted
  lines = ['Tool call success'] if result.ok else ['Tool call failure', f'reason: {reason}']
  if stdout:
    lines.append(f'stdout: {stdout}')
  if stderr:
    lines.append(f'stderr: {stderr}')
  if view.seconds:
    lines.append(f'execution time: {result.seconds:.2f}s')
  text = '\n'.join(lines)
  omitted += sum(result.omitted)
  if view.response is not None:
    text, more = _cut_side(text, view.response, view.side)
    omitted += more
  return Response(text, result.status, omitted=omitted, seconds=result.seconds, queued=result.queued)


def _released_streams(result: Result, view: View, code: str) -> tuple[str, str, int]:
  """(stdout, stderr, characters omitted) as the released code shows them."""
  stdout = result.stdout + _TIMEOUT_LINE * (result.status == 'timeout')
  stderr = _ERROR.sub(lambda error: _released_error(error, code), result.stderr)
  of_stdout = max(len(stdout) - view.stream, 0)
  of_stderr = max(len(stderr) - view.stream, 0)
  omitted = of_stdout + of_stderr
  return stdout[: view.stream], stderr[: view.stream], omitted


def _released_error(error: re.Match, code: str) -> str:
  """An error as the released code prints it: the source line whole after two blanks.

  It looks the line of a failing last expression up in that expression alone, by its number in the whole program. So it
  finds none if other lines come before, and then leaves out the number as well.
  """
  number = int(error['line'])
  lines = code.splitlines()
  start = _last_expression(code)
  if start is not None and number >= start:
    lines = lines[start - 1 :]
  if number > len(lines):
    return f'{error["type"]}: {error["message"]}\n'
  return f'{error["type"]} at line {number}: {error["message"]}\n  {lines[number - 1]}\n'


def _last_expression(code: str) -> int | None:
  """The first line of a trailing expression; None if there is none."""
  try:
    body = ast.parse(code).body
  except (SyntaxError, ValueError, RecursionError, MemoryError):
    return None
  is_expression = bool(body) and isinstance(body[-1], ast.Expr)
  if is_expression:
    return body[-1].lineno
  return None


def python_tool(run: Callable[..., Awaitable[Result]], view: View = View()) -> Callable[..., Awaitable[Response]]:
  """The Python tool over `Dispatcher.run` or `Client.run`: each call in a fresh process, `input` as standard input."""

  async def call(trajectory: str, arguments: Mapping[str, Any]) -> Response:
    unknown = sorted(map(str, arguments.keys() - {'code', 'input'}))
    if unknown:
      raise TypeError(f'unexpected arguments {", ".join(unknown)[:200]}; expected code and input')
    code = arguments.get('code')
    stdin = arguments.get('input', '')
    if not isinstance(code, str) or not isinstance(stdin, str):
      raise TypeError(f'code is {type(code).__name__} and input is {type(stdin).__name__}; expected two strings')
    try:
      result = await run(trajectory, code, stdin=stdin)
    except (RuntimeError, OSError) as error:  # the service is full, closed or lost: no fault of the code
      result = Result('harness', reason=str(error))
    return show(result, view, code)

  return call


class Runner:
  """Runs tool calls on an event loop in a separate thread, so that they overlap with a synchronous rollout loop.

  tools: by name, async functions (trajectory, arguments) → Response. patience: seconds after which an unanswered call
  fails. Errors of a tool become a Response; nothing is raised into the rollout.
  """

  def __init__(self, tools: Mapping[str, Callable[..., Awaitable[Response]]], *, patience: float = 120.0):
    self.tools = dict(tools)
    self.patience = patience
    self._loop = asyncio.new_event_loop()
    self._thread = threading.Thread(target=self._loop.run_forever, name='tools', daemon=True)
    self._thread.start()

  def start(self, trajectory: str, calls: Sequence[Call]) -> concurrent.futures.Future:
    """Starts the calls of a turn together; a future of their Responses, in order."""
    return asyncio.run_coroutine_threadsafe(self._all(trajectory, calls), self._loop)

  def wait(self, awaitable: Awaitable) -> Any:
    """Runs another awaitable on the loop, such as closing a dispatcher, and returns its value."""
    return asyncio.run_coroutine_threadsafe(awaitable, self._loop).result()

  def close(self) -> None:
    """Ends the thread."""
    self._loop.call_soon_threadsafe(self._loop.stop)
    self._thread.join()
    self._loop.close()

  async def _all(self, trajectory, calls):
    answers = [self._one(trajectory, call) for call in calls]
    return list(await asyncio.gather(*answers))

  async def _one(self, trajectory: str, call: Call) -> Response:
    response = await self._answer(trajectory, call)
    return dataclasses.replace(response, text=clean(response.text))

  async def _answer(self, trajectory: str, call: Call) -> Response:
    if call.error:
      return Response(f'The tool call could not be decoded: {call.error}', 'undecodable')
    if call.name not in self.tools:
      tools = ', '.join(self.tools)
      text = f'Error when executing tool: there is no tool {call.name[:100]!r}; the tools are {tools}'
      return Response(text, 'unknown_tool')
    try:
      if not isinstance(call.arguments, Mapping):
        raise TypeError(f'arguments is {type(call.arguments).__name__}, expected an object')
      tool = self.tools[call.name]
      return await asyncio.wait_for(tool(trajectory, call.arguments), self.patience)
    except TimeoutError:
      return Response('Tool call failure\nreason: internal_error', 'harness')
    except Exception as error:  # faults of the model's arguments or the tool go to the model
      return Response(f'Error when executing tool: {type(error).__name__}: {str(error)[:500]}', 'exception')
