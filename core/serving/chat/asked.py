"""What a request asks for: the fields of OpenAI's chat and text completions, checked."""

import dataclasses
import json
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from core.conversations.messages import check_text
from core.files.generation import Generation
from core.serving import fields
from core.serving.fields import short

MOST_STOPS = 16
MOST_SAMPLES = 128
MOST_PROMPTS = 128
MOST_TOKENS = 2**31 - 1
MOST_TOP, MOST_TOP_TEXT = 20, 5  # likeliest tokens that chat and text completions may ask for
# Fields of OpenAI's interface that are accepted with any value and have no effect here.
IGNORED = ('user', 'metadata', 'service_tier', 'safety_identifier', 'prompt_cache_key', 'parallel_tool_calls')
# Fields with one value that is served: the one without effect.
ONLY = {'frequency_penalty': 0, 'presence_penalty': 0, 'logit_bias': {}, 'store': False}
DRAW = ('temperature', 'top_p', 'top_k', 'min_p', 'repetition_penalty', 'seed')
COMMON = ('model', 'n', 'stop', 'stream', 'stream_options', 'max_tokens', *DRAW, *IGNORED, *ONLY)
CHAT = frozenset(
  (
    *COMMON,
    *('messages', 'logprobs', 'top_logprobs', 'max_completion_tokens', 'modalities'),
    *('tools', 'tool_choice', 'response_format', 'chat_template_kwargs'),
  )
)
COMPLETION = frozenset((*COMMON, 'prompt', 'logprobs', 'echo', 'suffix', 'best_of'))
DEFAULT_COMPLETION = 16  # tokens, as OpenAI's interface has it


@dataclasses.dataclass(frozen=True)
class Asked:
  """What all requests have.

  draw: fields of `core.engine.Request`. n: samples of each prompt. limit: tokens of a sample, None for as many as the
  context leaves. stop: texts that end a sample and are not part of it. usage: whether a stream ends with token counts.
  schema: of the JSON that a sample must be, None without one. top_logprobs: likeliest tokens told with each token.
  """

  model: str
  draw: Mapping[str, Any]
  n: int = 1
  limit: int | None = None
  stop: tuple[str, ...] = ()
  stream: bool = False
  usage: bool = False
  logprobs: bool = False
  top_logprobs: int = 0
  schema: Any = None


@dataclasses.dataclass(frozen=True)
class Chat(Asked):
  """A chat completion. messages: texts or lists of parts as content. tool_choice: 'auto', 'required' or a tool's name.

  options: of the chat template. extra: fields that the model adds, as they were sent.
  """

  messages: tuple[Mapping[str, Any], ...] = ()
  tools: tuple[Mapping[str, Any], ...] = ()
  tool_choice: str = 'auto'
  options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  extra: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Completion(Asked):
  """A text completion. prompts: texts or token ids."""

  prompts: tuple[str | tuple[int, ...], ...] = ()


def chat(body: Any, defaults: Generation, extra: Sequence[str] = ()) -> Chat:
  """The chat completion that JSON asks for; extra: names of fields that the model adds.

  Raises ValueError that names the first field that cannot be served.
  """
  given = fields.present(body, {*CHAT, *extra})
  fields.fixed(given, {'modalities': ['text']})
  tools, choice = _tools(given)
  schema = _schema(given.get('response_format', {'type': 'text'}))
  if schema is not None and tools and choice != 'auto':
    raise ValueError('response_format and a required tool_choice exclude each other')
  logprobs = fields.flag(given, 'logprobs')
  top = fields.whole(given, 'top_logprobs', 0, low=0, high=MOST_TOP)
  if top and not logprobs:
    raise ValueError(f'top_logprobs={top}: expected logprobs=true with it')
  options = given.get('chat_template_kwargs', {})
  if not isinstance(options, Mapping) or not all(isinstance(value, str | int | float) for value in options.values()):
    raise ValueError(f'chat_template_kwargs={short(options)}: expected an object of texts, numbers and booleans')
  limit = fields.whole(given, 'max_tokens', None, low=1, high=MOST_TOKENS)
  return Chat(
    **_common(given, defaults),
    limit=fields.whole(given, 'max_completion_tokens', limit, low=1, high=MOST_TOKENS),
    logprobs=logprobs,
    top_logprobs=top,
    schema=schema,
    messages=_messages(given.get('messages')),
    tools=tools,
    tool_choice=choice,
    options=options,
    extra={name: given[name] for name in extra if name in given},
  )


def completion(body: Any, defaults: Generation) -> Completion:
  """The text completion that JSON asks for. Raises ValueError that names the first field that cannot be served."""
  given = fields.present(body, COMPLETION)
  fields.fixed(given, {'echo': False, 'suffix': '', 'best_of': given.get('n', 1)})
  top = fields.whole(given, 'logprobs', None, low=0, high=MOST_TOP_TEXT)
  return Completion(
    **_common(given, defaults),
    limit=fields.whole(given, 'max_tokens', DEFAULT_COMPLETION, low=1, high=MOST_TOKENS),
    logprobs=top is not None,
    top_logprobs=top or 0,
    prompts=_prompts(given.get('prompt')),
  )


def _common(given: Mapping[str, Any], defaults: Generation) -> dict[str, Any]:
  fields.fixed(given, ONLY)
  model = given.get('model')
  if not isinstance(model, str):
    raise ValueError(f'model={short(model)}: expected a name that /v1/models lists')
  options = given.get('stream_options', {})
  if not isinstance(options, Mapping):
    raise ValueError(f'stream_options={short(options)}: expected an object')
  return {
    'model': model,
    'draw': _draw(given, defaults),
    'n': fields.whole(given, 'n', 1, low=1, high=MOST_SAMPLES),
    'stop': _stops(given.get('stop', [])),
    'stream': fields.flag(given, 'stream'),
    'usage': fields.flag({name: value for name, value in options.items() if value is not None}, 'include_usage'),
  }


def _draw(given: Mapping[str, Any], defaults: Generation) -> dict[str, Any]:
  top_k = fields.whole(given, 'top_k', defaults.top_k, low=-1, high=2**31 - 1)
  seed = fields.whole(given, 'seed', secrets.randbelow(2**31), low=-(2**63), high=2**63)
  return {
    'temperature': fields.number(given, 'temperature', defaults.temperature, low=0, high=100),
    'top_p': fields.number(given, 'top_p', defaults.top_p, low=1e-6, high=1),
    'top_k': max(top_k, 0),  # -1: all, as elsewhere
    'min_p': fields.number(given, 'min_p', defaults.min_p, low=0, high=0.999),
    'repetition_penalty': fields.number(given, 'repetition_penalty', defaults.repetition_penalty, low=0.01, high=100),
    'seed': seed % 2**31,
  }


def _stops(given: Any) -> tuple[str, ...]:
  stops = [given] if isinstance(given, str) else given
  if not isinstance(stops, list) or len(stops) > MOST_STOPS:
    raise ValueError(f'stop={short(given)}: expected a text or a list of at most {MOST_STOPS} texts')
  for stop in stops:
    if not isinstance(stop, str) or not 0 < len(stop) <= 1024:
      raise ValueError(f'stop has {short(stop)}: expected texts of 1 to 1024 characters')
    check_text(stop)
  return tuple(stops)


def _messages(given: Any) -> tuple[Mapping[str, Any], ...]:
  if not isinstance(given, list) or not given:
    raise ValueError(f'messages={short(given)}: expected a list of one or more turns')
  for number, message in enumerate(given):
    if not isinstance(message, Mapping) or not isinstance(message.get('role'), str):
      raise ValueError(f'messages[{number}]={short(message)}: expected an object with role and content')
  return tuple(given)


def _prompts(given: Any) -> tuple[str | tuple[int, ...], ...]:
  """One prompt or several, each a text or token ids."""
  several = isinstance(given, list) and given and isinstance(given[0], str | list)
  prompts = given if several else [given]
  if len(prompts) > MOST_PROMPTS:
    raise ValueError(f'prompt has {len(prompts)} prompts; expected at most {MOST_PROMPTS}')
  return tuple(map(_prompt, prompts))


def _prompt(given: Any) -> str | tuple[int, ...]:
  if isinstance(given, str):
    check_text(given)
    return given
  if isinstance(given, list) and given and all(type(token) is int for token in given):
    return tuple(given)
  raise ValueError(f'prompt={short(given)}: expected a text, token ids, or a list of either')


def _tools(given: Mapping[str, Any]) -> tuple[tuple[Mapping[str, Any], ...], str]:
  """(tools that may be called, 'auto', 'required' or the name of the one that must be)."""
  tools = given.get('tools', [])
  if not isinstance(tools, list):
    raise ValueError(f'tools={short(tools)}: expected a list')
  names = [_tool_name(tool) for tool in tools]
  choice = given.get('tool_choice', 'auto' if tools else 'none')
  if choice == 'none':
    return (), 'auto'
  if isinstance(choice, Mapping):
    function = choice.get('function')
    wanted = None
    if isinstance(function, Mapping):
      wanted = function.get('name')
    if wanted not in names:
      raise ValueError(f'tool_choice={short(choice)}: expected one of the tools {names}')
    return tuple(tools), wanted
  if choice not in ('auto', 'required') or not tools:
    raise ValueError(f'tool_choice={short(choice)}: expected none, or with tools auto, required or one of them')
  # A tool may be called 'required' or 'auto': then only its object form names it.
  return tuple(tools), choice


def _tool_name(tool: Any) -> str:
  function = None
  if isinstance(tool, Mapping):
    function = tool.get('function')
  if not isinstance(function, Mapping) or not isinstance(function.get('name'), str):
    raise ValueError(f"tools has {short(tool)}: expected {{'type': 'function', 'function': {{'name': …}}}}")
  return function['name']


def _schema(given: Any) -> Any:
  """The schema of a response_format; None where any text will do."""
  kind = None
  if isinstance(given, Mapping):
    kind = given.get('type')
  if kind == 'text':
    return None
  if kind == 'json_object':
    return {'type': 'object'}
  named = None
  if kind == 'json_schema':
    named = given.get('json_schema')
  schema = None
  if isinstance(named, Mapping):
    schema = named.get('schema')
  if not isinstance(schema, Mapping | bool):
    raise ValueError(f'response_format={short(given)}: expected text, json_object, or json_schema with a schema')
  if len(json.dumps(schema)) > 1 << 16:
    raise ValueError('response_format: a schema of more than 64 KiB')
  return schema
