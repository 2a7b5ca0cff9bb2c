"""Tools of a rollout: what a call gives back, and a runner that goes on while the engine decodes."""

import asyncio
import concurrent.futures
import dataclasses
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Literal

from agents.rollout.protocol import Call
from agents.sandbox import Result

# How a call ended beyond `agents.sandbox.STATUSES`: it was no JSON, named no tool, or raised.
STATUSES = ('undecodable', 'unknown_tool', 'exception')
REASONS = {'timeout': 'worker_timeout', 'harness': 'internal_error', 'memory': 'memory_limit', 'output': 'output_limit'}


@dataclasses.dataclass(frozen=True)
class Response:
  """What the model is told about a call, how it ended, how many characters were cut, and its seconds run and queued."""

  text: str
  status: str
  omitted: int = 0
  seconds: float = 0.0
  queued: float = 0.0

  failed = property(lambda self: self.status != 'ok')


@dataclasses.dataclass(frozen=True)
class View:
  """How much of a result the model sees.

  stream: characters kept of each of stdout and stderr, head and tail around a marker. response: characters of the whole
  response, or None, cut at `side` ('left' keeps the head). seconds: whether the execution time is shown, which makes
  rollouts differ from run to run.
  """

  stream: int = 1000
  response: int | None = None
  side: Literal['middle', 'left', 'right'] = 'middle'
  seconds: bool = True

  def __post_init__(self):
    if self.stream < 1 or (self.response is not None and self.response < 1):
      raise ValueError(f'stream={self.stream}, response={self.response}: expected 1 or more')
    if self.side not in ('middle', 'left', 'right'):
      raise ValueError(f'side={self.side!r}: expected middle, left or right')


# `released`: the cut of rStar2-Agent's released code.
VIEWS = {'default': View(), 'released': View(response=256), 'reproducible': View(seconds=False)}


def cut(text: str, most: int) -> tuple[str, int]:
  """(text of at most `most` characters of the original, head and tail around a marker; characters left out)."""
  left = len(text) - most
  if left <= 0:
    return text, 0
  tail = most // 2
  return f'{text[: most - tail]}\n[{left} characters left out]\n{text[len(text) - tail :]}', left


def _cut_side(text: str, most: int, side: str) -> tuple[str, int]:
  if len(text) <= most:
    return text, 0
  half = most // 2
  head, tail = {'left': (most, 0), 'right': (0, most), 'middle': (half, half)}[side]
  middle = '...(truncated)...' if head and tail else '...(truncated)' if head else '(truncated)...'
  return text[:head] + middle + text[len(text) - tail :], len(text) - head - tail


def show(result: Result, view: View = View()) -> Response:
  """A sandbox result as the model sees it (arXiv 2508.20722, released code): status, reason, streams, time."""
  out, lost_out = cut(result.stdout.rstrip('\n'), view.stream)
  err, lost_err = cut(result.stderr.rstrip('\n'), view.stream)
  lines = ['Tool call success'] if result.ok else ['Tool call failure', f'reason: {REASONS.get(result.status, "")}']
  lines += [f'{name}: {text}' for name, text in (('stdout', out), ('stderr', err)) if text]
  lines += [f'execution time: {result.seconds:.2f}s'] if view.seconds else []
  text, lost = '\n'.join(lines), 0
  if view.response is not None:
    text, lost = _cut_side(text, view.response, view.side)
  return Response(text, result.status, lost_out + lost_err + lost + sum(result.omitted), result.seconds, result.queued)


def python_tool(run: Callable[..., Awaitable[Result]], view: View = View()) -> Callable[..., Awaitable[Response]]:
  """The Python tool over `Dispatcher.run` or `Client.run`: each call from nothing, `input` as standard input."""

  async def call(trajectory: str, arguments: Mapping[str, Any]) -> Response:
    unknown = sorted(map(str, arguments.keys() - {'code', 'input'}))
    if unknown:
      raise TypeError(f'unexpected arguments {", ".join(unknown)[:200]}; expected code and input')
    code, given = arguments.get('code'), arguments.get('input', '')
    if not isinstance(code, str) or not isinstance(given, str):
      raise TypeError(f'code is {type(code).__name__} and input is {type(given).__name__}; expected two strings')
    try:
      result = await run(trajectory, code, stdin=given)
    except (RuntimeError, OSError) as error:  # full, closed or gone: no fault of the code
      result = Result('harness', reason=str(error))
    return show(result, view)

  return call


class Runner:
  """Runs tool calls on an event loop of its own thread, so that a synchronous rollout loop goes on meanwhile.

  tools: by name, async functions (trajectory, arguments) → Response. patience: seconds after which a call that nothing
  answers is given up. Whatever a tool does becomes a Response; nothing is raised into the rollout.
  """

  def __init__(self, tools: Mapping[str, Callable[..., Awaitable[Response]]], *, patience: float = 120.0):
    self.tools, self.patience = dict(tools), patience
    self._loop = asyncio.new_event_loop()
    self._thread = threading.Thread(target=self._loop.run_forever, name='tools', daemon=True)
    self._thread.start()

  def start(self, trajectory: str, calls: Sequence[Call]) -> concurrent.futures.Future:
    """Starts the calls of a turn together; a future of their Responses, in order."""
    return asyncio.run_coroutine_threadsafe(self._all(trajectory, calls), self._loop)

  def wait(self, awaitable: Awaitable) -> Any:
    """Runs something else on the loop, such as closing a dispatcher, and returns its value."""
    return asyncio.run_coroutine_threadsafe(awaitable, self._loop).result()

  def close(self) -> None:
    """Ends the thread."""
    self._loop.call_soon_threadsafe(self._loop.stop)
    self._thread.join()
    self._loop.close()

  async def _all(self, trajectory, calls):
    return list(await asyncio.gather(*(self._one(trajectory, call) for call in calls)))

  async def _one(self, trajectory: str, call: Call) -> Response:
    if call.error:
      return Response(f'The tool call could not be decoded: {call.error}', 'undecodable')
    if call.name not in self.tools:
      return Response(
        f'Error when executing tool: there is no tool {call.name[:100]!r}; the tools are {", ".join(self.tools)}',
        'unknown_tool',
      )
    try:
      if not isinstance(call.arguments, Mapping):
        raise TypeError(f'arguments is {type(call.arguments).__name__}, expected an object')
      return await asyncio.wait_for(self.tools[call.name](trajectory, call.arguments), self.patience)
    except TimeoutError:
      return Response('Tool call failure\nreason: internal_error', 'harness')
    except Exception as error:  # the model's arguments and the tool's failures: told, not raised
      return Response(f'Error when executing tool: {type(error).__name__}: {str(error)[:500]}', 'exception')
