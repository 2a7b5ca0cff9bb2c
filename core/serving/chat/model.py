"""What a server needs of a model, and a `core.decoder` folder as one."""

import asyncio
import concurrent.futures
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from core.conversations.messages import check_text
from core.conversations.template import ChatTemplate
from core.engine import Request
from core.files.generation import Generation
from core.serving.chat.asked import Asked, Chat, Completion
from core.serving.chat.grammar import Grammars

ROLES = ('system', 'developer', 'user', 'assistant', 'tool')


@dataclasses.dataclass(frozen=True)
class Prepared:
  """An engine request, and further token counts of its prompt for the client, by name."""

  request: Request
  details: Mapping[str, Any] = dataclasses.field(default_factory=dict)


class Served(Protocol):
  """A model that is served.

  name: for clients. tokenizer: of its text; skip_special: whether special tokens are left out of what is said. stops:
  tokens that end a response. defaults: sampling of requests that say nothing. extra: fields of a request that it adds.
  """

  name: str
  tokenizer: Any
  skip_special: bool
  stops: tuple[int, ...]
  defaults: Generation
  extra: tuple[str, ...]

  def said(self, text: str) -> str:
    """What clients see of a response's decoded text; what is seen of a longer text begins with it."""

  async def prepare(self, asked: Chat | Completion) -> list[Prepared]:
    """A request of the engine for each prompt. Raises ValueError for what the model cannot do."""


class Words:
  """Makes engine requests of token ids: limits, stops, grammars. tokens: that prompt and response have at most."""

  def __init__(self, tokenizer: Any, *, vocab: int, stops: Sequence[int], tokens: int):
    self.tokenizer = tokenizer
    self.stops = tuple(stops)
    self.tokens = tokens
    self.grammars = Grammars(tokenizer, vocab, self.stops)

  def request(self, asked: Asked, prompt: Sequence[int], media: Sequence[Any] = ()) -> Request:
    """The engine's request. Raises ValueError for a prompt that leaves no tokens, and for a schema without meaning."""
    left = self.tokens - len(prompt)
    if left < 1:
      raise ValueError(f'the prompt has {len(prompt)} tokens; the context of {self.tokens} leaves none for a response')
    if asked.limit is not None and asked.limit > left:
      raise ValueError(
        f'max_tokens={asked.limit}: the prompt has {len(prompt)} tokens, and the context of {self.tokens} leaves {left}'
      )
    return Request(
      prompt,
      asked.limit or left,
      n=asked.n,
      stops=self.stops,
      stop_strings=asked.stop,
      constraint=self._constraint(asked),
      top_logprobs=asked.top_logprobs,
      media=media,
      **asked.draw,
    )

  def _constraint(self, asked: Asked) -> Callable | None:
    if asked.schema is not None:
      return self.grammars.of_schema(asked.schema)
    if isinstance(asked, Chat) and asked.tool_choice != 'auto':
      named = [tool for tool in asked.tools if tool['function']['name'] == asked.tool_choice]
      return self.grammars.of_tools(named or asked.tools)
    return None


class TextModel:
  """A decoder and its tokenizer as `Served`."""

  skip_special = True
  extra = ()

  def __init__(self, name: str, words: Words, defaults: Generation):
    self.name = name
    self.defaults = defaults
    self.tokenizer = words.tokenizer
    self.stops = words.stops
    self._words = words
    self._template = ChatTemplate(words.tokenizer)
    self._threads = concurrent.futures.ThreadPoolExecutor(2, 'prompts')

  def said(self, text: str) -> str:
    """As in `Served`."""
    return text

  async def prepare(self, asked: Chat | Completion) -> list[Prepared]:
    """As in `Served`."""
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(self._threads, self._prepared, asked)

  def _prepared(self, asked: Chat | Completion) -> list[Prepared]:
    if isinstance(asked, Completion):
      return [Prepared(self._words.request(asked, self._tokens(prompt))) for prompt in asked.prompts]
    if self.tokenizer.chat_template is None:
      raise ValueError('the tokenizer of this model has no chat template; use /v1/completions')
    turns = [turn(number, message) for number, message in enumerate(asked.messages)]
    prompt = self._template(turns, asked.tools, asked.options)
    return [Prepared(self._words.request(asked, prompt.tolist()))]

  def _tokens(self, prompt: str | tuple[int, ...]) -> Sequence[int]:
    """A prompt's ids; those of a text as the tokenizer alone makes them, special tokens included."""
    if isinstance(prompt, str):
      return self.tokenizer.encode(prompt)
    return prompt


def turn(number: int, message: Mapping[str, Any]) -> dict[str, Any]:
  """A message with a text as content, as chat templates take it. Raises ValueError naming its number."""
  role = message['role']
  content = message.get('content')
  if role not in ROLES:
    raise ValueError(f'messages[{number}]: role {role!r}; expected one of {", ".join(ROLES)}')
  made = {'role': 'system' if role == 'developer' else role, 'content': text_of(number, content)}
  for name in ('tool_call_id', 'name'):
    if isinstance(message.get(name), str):
      made[name] = message[name]
  calls = message.get('tool_calls')
  if calls:
    if role != 'assistant' or not isinstance(calls, list):
      raise ValueError(f'messages[{number}]: tool_calls; expected a list, and of an assistant')
    made['tool_calls'] = [_call(number, call) for call in calls]
  return made


def text_of(number: int, content: Any) -> str:
  """The text of a message's content. Raises ValueError for other parts."""
  if content is None:
    return ''
  parts = content
  if isinstance(content, str):
    parts = [{'type': 'text', 'text': content}]
  if not isinstance(parts, list):
    raise ValueError(f'messages[{number}]: content {content!r:.60}; expected a text or a list of parts')
  texts = []
  for part in parts:
    text = None
    if isinstance(part, Mapping) and part.get('type') == 'text':
      text = part.get('text')
    if not isinstance(text, str):
      raise ValueError(f'messages[{number}]: a part {part!r:.60}; this model reads only text')
    check_text(text)
    texts.append(text)
  return ''.join(texts)


def _call(number: int, call: Any) -> dict[str, Any]:
  """A call of an earlier turn, its arguments an object where they are one: templates write them as JSON."""
  from core.text import parse_json

  function = None
  if isinstance(call, Mapping):
    function = call.get('function')
  name = None
  if isinstance(function, Mapping):
    name = function.get('name')
  arguments = None
  if isinstance(function, Mapping):
    arguments = function.get('arguments')
  if not isinstance(name, str) or not isinstance(arguments, str):
    raise ValueError(f'messages[{number}]: a tool call {call!r:.60}; expected a function with name and arguments')
  try:
    read = parse_json(arguments)
  except ValueError:
    read = arguments
  return {'type': 'function', 'function': {'name': name, 'arguments': read}}
