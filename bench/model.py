"""Where answers come from: an OpenAI-compatible endpoint, or a local folder of weights.

Both are called alike, `model(messages, sampling, seed) -> Answer`, where messages are chat turns whose
content is a text or a list of parts {'type': 'text', 'text': …}, {'type': 'image', 'image': path or PIL
image}, {'type': 'audio', 'audio': path}.
"""

import base64
import dataclasses
import io
import json
import mimetypes
import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bench.rows import clean, parse_json
from bench.task import Answer, Sampling

MAX_REPLY_BYTES = 8 << 20
RETRIED = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})


class RequestFailed(RuntimeError):
  """No usable reply after all attempts, or one that asking again would not change."""


class _TryAgain(Exception):
  """One attempt failed in a way that another may not; `wait` is how long the server asked us to."""

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
    return min(self.longest, max(asked, self.first * 2 ** attempt))


class Endpoint:
  """A chat-completions server such as vLLM's, SGLang's or our own. Safe to call from several threads.

  url: the address up to and including the version, for example http://127.0.0.1:8000/v1. name: the model to
  ask for; by default the first that the server lists. timeout: seconds for one whole reply. Replies above
  `max_bytes` are cut off unread. Raises RequestFailed.
  """

  concurrent = True

  def __init__(self, url: str, name: str = '', *, key: str = '', timeout: float = 600.0,
               retry: Retry = Retry(),
               max_bytes: int = MAX_REPLY_BYTES, sleep: Callable[[float], None] = time.sleep):
    import httpx
    self.url = url.rstrip('/')
    self._timeout, self._retry, self._max_bytes, self._sleep = timeout, retry, max_bytes, sleep
    self._client = httpx.Client(
        timeout=httpx.Timeout(timeout, connect=min(timeout, 10.0)),
        limits=httpx.Limits(max_connections=256),
        headers={'Authorization': f'Bearer {key}'} if key else {},
    )
    self.name = name or self._first_model()

  def __call__(self, messages: list[dict], sampling: Sampling, seed: int) -> Answer:
    body = {'model': self.name, 'messages': [_openai_turn(turn) for turn in messages],
            'max_tokens': sampling.max_tokens, 'temperature': sampling.temperature, 'top_p': sampling.top_p,
            'seed': seed}
    if sampling.top_k:
      body['top_k'] = sampling.top_k
    return self._retrying('POST', '/chat/completions', body, _read_completion)

  def settings(self, sampling: Sampling) -> dict:
    """What the report says about how answers were drawn."""
    return dataclasses.asdict(sampling)

  def _first_model(self) -> str:
    return self._retrying('GET', '/models', None, lambda reply: reply['data'][0]['id'])

  def _retrying(self, method: str, path: str, body: dict | None, read: Callable[[Any], Any]):
    for attempt in range(self._retry.attempts):
      try:
        return self._once(method, path, body, read)
      except _TryAgain as failure:
        reason = failure
        if attempt + 1 < self._retry.attempts:
          self._sleep(self._retry.pause(attempt, failure.wait))
    raise RequestFailed(f'{self.url}{path}: {reason} ({self._retry.attempts} attempts)')

  def _once(self, method: str, path: str, body: dict | None, read: Callable[[Any], Any]):
    import httpx
    try:
      with self._client.stream(method, self.url + path, json=body) as response:
        raw = self._body(response)
        status, headers = response.status_code, response.headers
    except httpx.InvalidURL as error:
      raise RequestFailed(f'{self.url}: {error}') from None
    except httpx.HTTPError as error:
      raise _TryAgain(f'{type(error).__name__}: {error}') from None
    if status in RETRIED:
      raise _TryAgain(f'status {status}', _seconds(headers.get('retry-after')))
    if status != 200:
      raise RequestFailed(f'{self.url}{path}: status {status}: {raw[:300].decode("utf-8", "replace")}')
    try:
      return read(parse_json(raw.decode('utf-8', 'replace')))
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
      raise _TryAgain(f'not a usable reply ({type(error).__name__}: {error})') from None

  def _body(self, response) -> bytes:
    # The clock covers the whole reply: a server that sends a byte a minute never trips a read timeout.
    deadline = time.monotonic() + self._timeout
    parts, size = [], 0
    for part in response.iter_bytes():
      size += len(part)
      if size > self._max_bytes:
        raise _TryAgain(f'a reply of more than {self._max_bytes} bytes')
      if time.monotonic() > deadline:
        raise _TryAgain(f'no whole reply within {self._timeout:g} s')
      parts.append(part)
    return b''.join(parts)


def _seconds(text: str | None) -> float:
  return float(text) if text and text.isdigit() and len(text) < 6 else 0.0


def _read_completion(reply: Mapping) -> Answer:
  choice = reply['choices'][0]
  content = choice['message'].get('content')
  if isinstance(content, list):
    content = ''.join(part.get('text', '') for part in content)
  if content is not None and not isinstance(content, str):
    raise TypeError(f'content is {type(content).__name__}')
  finish = 'length' if choice.get('finish_reason') == 'length' else 'stop'
  return Answer(clean(content or ''), finish)


def _openai_turn(turn: Mapping) -> dict:
  content = turn['content']
  if not isinstance(content, str):
    content = [_openai_part(part) for part in content]
  return {'role': turn['role'], 'content': content}


def _openai_part(part: Mapping) -> dict:
  if part['type'] == 'image':
    return {'type': 'image_url', 'image_url': {'url': image_url(part['image'])}}
  if part['type'] == 'audio':
    path = Path(part['audio'])
    data = base64.b64encode(path.read_bytes()).decode()
    return {'type': 'input_audio',
            'input_audio': {'data': data, 'format': path.suffix.lstrip('.').lower() or 'wav'}}
  return dict(part)


def image_url(image) -> str:
  """A data URL of a file (as it is) or of a PIL image (as PNG)."""
  if isinstance(image, (str, Path)):
    kind = mimetypes.guess_type(str(image))[0] or 'image/png'
    raw = Path(image).read_bytes()
  else:
    buffer = io.BytesIO()
    image.convert('RGB').save(buffer, 'PNG')
    kind, raw = 'image/png', buffer.getvalue()
  return f'data:{kind};base64,{base64.b64encode(raw).decode()}'


class Local:
  """An InternVL folder, loaded once; calls are serialised, for there is one set of weights."""

  concurrent = False

  def __init__(self, path: str):
    import internvl
    self.name = Path(path).resolve().name
    self._internvl, self._lock = internvl, threading.Lock()
    self._config, self._params = internvl.load(path)
    self._processor = internvl.Processor.load(path)

  def __call__(self, messages: list[dict], sampling: Sampling, seed: int) -> Answer:
    with self._lock:
      text = self._internvl.chat(
          self._params, self._config, self._processor, [_as_parts(turn) for turn in messages],
          max_new_tokens=sampling.max_tokens, temperature=sampling.temperature, seed=seed, stream=False)
    return Answer(clean(text))

  def settings(self, sampling: Sampling) -> dict:
    """`internvl.chat` draws from the whole distribution, whatever the task's defaults."""
    return dataclasses.asdict(dataclasses.replace(sampling, top_p=1.0, top_k=0))


def _as_parts(turn: Mapping) -> dict:
  """Text as a part of its own, where `<image>` is nothing but text."""
  content = turn['content']
  return {**turn, 'content': [{'type': 'text', 'text': content}] if isinstance(content, str) else content}


def open_model(spec: str, name: str = '', *, key_env: str = 'OPENAI_API_KEY', timeout: float = 600.0):
  """The model that `spec` names: a URL or a folder.

  Raises ValueError for anything else, RequestFailed if deaf.
  """
  if spec.startswith(('http://', 'https://')):
    return Endpoint(spec, name, key=os.environ.get(key_env, ''), timeout=timeout)
  folder = Path(spec)
  if not (folder / 'config.json').is_file():
    raise ValueError(f'--model={spec}: neither a URL (http://… or https://…) nor a folder with a config.json')
  kind = json.loads((folder / 'config.json').read_text()).get('model_type', '')
  if not str(kind).startswith('internvl'):
    raise ValueError(f'--model={spec}: model_type is {kind!r}; local folders of InternVL can be loaded here, '
                     'any other model can be served behind an OpenAI-compatible URL')
  return Local(spec)
