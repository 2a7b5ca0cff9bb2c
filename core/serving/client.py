"""A client of chat-completions servers (OpenAI's interface): every failure is bounded, every reply checked.

Messages are chat turns as of `core.serving.turns`.
"""

import dataclasses
import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from core.serving.turns import openai_turn
from core.text import clean_json, parse_json

MAX_REPLY_BYTES = 8 << 20
SEARCHED = 4000  # characters of a refusal
TOO_LONG = re.compile(r'context_length_exceeded|(maximum|max) (context|model) len|context (length|window|size)', re.I)
RETRIED = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})


class RequestFailed(RuntimeError):
  """No usable reply after all attempts, or a refusal that another attempt would not change.

  `status` is the HTTP status of a refusal, None where attempts ran out.
  """

  def __init__(self, message: str, status: int | None = None):
    super().__init__(message)
    self.status = status


@dataclasses.dataclass(frozen=True)
class Sampling:
  """How a reply is drawn: temperature 0 takes the likeliest token; top_k 0 is all tokens; max_tokens bounds it."""

  temperature: float = 0.0
  top_p: float = 1.0
  top_k: int = 0
  max_tokens: int = 2048


@dataclasses.dataclass(frozen=True)
class Dialect:
  """How a server's requests differ from the common ones.

  limit: name of the field that bounds a reply; newer servers want max_completion_tokens. extra: further fields of every
  request, such as {'chat_template_kwargs': {'enable_thinking': False}}; they win over those that are sent otherwise.
  """

  limit: str = 'max_tokens'
  extra: Mapping[str, Any] = dataclasses.field(default_factory=dict)


COMMON = Dialect()


@dataclasses.dataclass(frozen=True)
class Call:
  """A tool call as the model wrote it: `arguments` is text that may or may not be JSON."""

  id: str
  name: str
  arguments: str

  def as_turn(self) -> dict:
    """The call as an entry of an assistant turn's `tool_calls`."""
    return {'id': self.id, 'type': 'function', 'function': {'name': self.name, 'arguments': self.arguments}}


@dataclasses.dataclass(frozen=True)
class Reply:
  """A reply. `finish` is "stop" or "length" (cut off); token counts are the server's, 0 where it gives none.

  reasoning: thoughts that the server took out of the text.
  """

  text: str
  finish: str = 'stop'
  calls: tuple[Call, ...] = ()
  prompt_tokens: int = 0
  reply_tokens: int = 0
  reasoning: str = ''


class ContextTooLong(RequestFailed):
  """The server refuses a request because its turns and the reply asked for exceed the model's context."""


class _TryAgain(Exception):
  """An attempt failed that may succeed when repeated; `wait` is the pause that the server asks for, in seconds."""

  def __init__(self, reason: str, wait: float = 0.0):
    super().__init__(reason)
    self.wait = wait


@dataclasses.dataclass(frozen=True)
class Retry:
  """At most `attempts` tries, pausing `first` seconds, then twice as long each time, up to `longest`."""

  attempts: int = 5
  first: float = 0.5
  longest: float = 30.0

  def pause(self, attempt: int, asked: float) -> float:
    return min(self.longest, max(asked, self.first * 2**attempt))


class Endpoint:
  """A chat-completions server such as vLLM's, SGLang's or our own. Safe to call from several threads.

  url: the address up to and including the version, for example http://127.0.0.1:8000/v1. name: the model to
  ask for; by default the first that the server lists. timeout: seconds for one whole reply. Replies above
  `max_bytes` are cut off unread. Raises RequestFailed.
  """

  def __init__(
    self,
    url: str,
    name: str = '',
    *,
    key: str = '',
    dialect: Dialect = COMMON,
    timeout: float = 600.0,
    retry: Retry = Retry(),
    max_bytes: int = MAX_REPLY_BYTES,
    sleep: Callable[[float], None] = time.sleep,
  ):
    import httpx

    self.url = url.rstrip('/')
    self.dialect = dialect
    self._timeout = timeout
    self._retry = retry
    self._max_bytes = max_bytes
    self._sleep = sleep
    self._client = httpx.Client(
      timeout=httpx.Timeout(timeout, connect=min(timeout, 10.0)),
      limits=httpx.Limits(max_connections=256),
      headers={'Authorization': f'Bearer {key}'} if key else {},
    )
    self.name = name or self._first_model()

  def chat(
    self,
    messages: Sequence[Mapping],
    sampling: Sampling,
    seed: int,
    tools: Sequence[Mapping] = (),
    *,
    seconds: float = float('inf'),
  ) -> Reply:
    """The model's next turn; `tools` are the schemas of the functions that it may call.

    seconds: bounds all attempts together. Raises RequestFailed, ContextTooLong where the turns are too many.
    """
    body = {
      'model': self.name,
      'messages': [openai_turn(turn) for turn in messages],
      self.dialect.limit: sampling.max_tokens,
      'temperature': sampling.temperature,
      'top_p': sampling.top_p,
      'seed': seed,
    }
    if sampling.top_k:
      body['top_k'] = sampling.top_k
    if tools:
      body['tools'] = list(tools)
    body |= self.dialect.extra
    return self._retrying('POST', '/chat/completions', body, _read_completion, time.monotonic() + seconds)

  def _first_model(self) -> str:
    return self._retrying('GET', '/models', None, lambda reply: reply['data'][0]['id'])

  def _retrying(
    self, method: str, path: str, body: dict | None, read: Callable[[Any], Any], deadline: float = float('inf')
  ):
    for attempt in range(self._retry.attempts):
      try:
        return self._once(method, path, body, read, deadline)
      except _TryAgain as failure:
        reason = failure
      pause = self._retry.pause(attempt, reason.wait)
      if attempt + 1 == self._retry.attempts or time.monotonic() + pause >= deadline:
        break
      self._sleep(pause)
    raise RequestFailed(f'{self.url}{path}: {reason} ({attempt + 1} attempts)')

  def _once(self, method: str, path: str, body: dict | None, read: Callable[[Any], Any], deadline: float):
    import httpx

    seconds = max(0.001, min(self._timeout, deadline - time.monotonic()))
    limits = httpx.Timeout(seconds, connect=min(seconds, 10.0))
    try:
      with self._client.stream(method, self.url + path, **_content(body), timeout=limits) as response:
        raw = self._body(response, seconds)
        status = response.status_code
        headers = response.headers
    except httpx.InvalidURL as error:
      raise RequestFailed(f'{self.url}: {error}') from None
    except httpx.HTTPError as error:
      raise _TryAgain(f'{type(error).__name__}: {error}') from None
    if status in RETRIED:
      raise _TryAgain(f'status {status}', _seconds(headers.get('retry-after')))
    text = raw.decode('utf-8', 'replace')
    if status != 200:
      raise _refusal(f'{self.url}{path}: status {status}', text, status)
    try:
      reply = clean_json(parse_json(text))
      _check_error(reply, f'{self.url}{path}: status 200 with an error')
      return read(reply)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
      raise _TryAgain(f'not a usable reply ({type(error).__name__}: {error})') from None

  def _body(self, response, seconds: float) -> bytes:
    # The deadline covers the whole reply: a server that sends a byte a minute never trips a read timeout.
    deadline = time.monotonic() + seconds
    parts = []
    size = 0
    for part in response.iter_bytes():
      size += len(part)
      if size > self._max_bytes:
        raise _TryAgain(f'a reply of more than {self._max_bytes} bytes')
      if time.monotonic() > deadline:
        raise _TryAgain(f'no whole reply within {seconds:g} s')
      parts.append(part)
    return b''.join(parts)


def _content(body: dict | None) -> dict[str, Any]:
  """A request's body for httpx. Lone surrogates, which no server can read, are replaced."""
  if body is None:
    return {}
  text = json.dumps(body, ensure_ascii=False)
  return {'content': text.encode('utf-8', 'replace'), 'headers': {'Content-Type': 'application/json'}}


def _refusal(what: str, text: str, status: int) -> RequestFailed:
  """The error for a refusal that another attempt would not change."""
  kind = ContextTooLong if TOO_LONG.search(text[:SEARCHED]) else RequestFailed
  return kind(f'{what}: {text[:300]}', status)


def _check_error(reply: Any, what: str) -> None:
  """Raises for a reply that reports an error in its body alone, as some gateways do; `code` is a status then."""
  error = None
  if isinstance(reply, dict) and 'choices' not in reply:
    error = reply.get('error')
  if not error:
    return
  code = None
  if isinstance(error, dict):
    code = error.get('code')
  text = json.dumps(error, ensure_ascii=False)
  if code in RETRIED:
    raise _TryAgain(f'{what}: {text[:300]}')
  raise _refusal(what, text, code if isinstance(code, int) else 200)


def _seconds(text: str | None) -> float:
  if text and re.fullmatch('[0-9]{1,5}', text):
    return float(text)
  return 0.0


def _read_completion(reply: Mapping) -> Reply:
  choice = reply['choices'][0]
  message = choice['message']
  content = message.get('content')
  if isinstance(content, list):
    content = ''.join(part.get('text', '') for part in content)
  if content is not None and not isinstance(content, str):
    raise TypeError(f'content is {type(content).__name__}')
  reasoning = message.get('reasoning_content') or message.get('reasoning')
  usage = reply.get('usage') or {}
  return Reply(
    content or '',
    finish='length' if choice.get('finish_reason') == 'length' else 'stop',
    calls=tuple(map(_read_call, message.get('tool_calls') or ())),
    prompt_tokens=_count(usage.get('prompt_tokens')),
    reply_tokens=_count(usage.get('completion_tokens')),
    reasoning=reasoning if isinstance(reasoning, str) else '',
  )


def _count(value: Any) -> int:
  if type(value) is int and value >= 0:
    return value
  return 0


def _read_call(call: Mapping) -> Call:
  name = call['function']['name']
  arguments = call['function'].get('arguments') or '{}'
  key = call.get('id') or ''
  if not all(isinstance(text, str) for text in (key, name, arguments)):
    raise TypeError('a tool call whose id, name and arguments are not all text')
  return Call(key, name, arguments)
