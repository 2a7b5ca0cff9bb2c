"""Tools as the loop sees them: schemas, and calls whose every failure is an observation."""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from core.serving.client import Call
from core.text import clean, clean_json, parse_json

MAX_CHARACTERS = 40_000  # of one observation


@dataclasses.dataclass(frozen=True)
class Observation:
  """What a tool call gave: its text, and whether that is the description of a failure."""

  text: str
  failed: bool = False


class Toolbox(Protocol):
  """Something with tools. What `call` raises is what the model reads of it."""

  def schemas(self) -> Sequence[Mapping[str, Any]]: ...
  def call(self, name: str, arguments: Mapping[str, Any], timeout: float) -> Observation: ...


@dataclasses.dataclass(frozen=True)
class Functions:
  """Python functions as tools, in this process: for trusted code and for tests. No timeout is kept."""

  functions: Mapping[str, tuple[Mapping[str, Any], Callable[..., str]]] = dataclasses.field(default_factory=dict)

  def schemas(self) -> list[dict]:
    schemas = []
    for name, (parameters, function) in self.functions.items():
      description = function.__doc__ or ''
      schemas.append(schema(name, description, parameters))
    return schemas

  def call(self, name: str, arguments: Mapping[str, Any], timeout: float) -> Observation:
    _, function = self.functions[name]
    return Observation(str(function(**arguments)))


def schema(name: str, description: str, parameters: Mapping[str, Any]) -> dict:
  """A tool as the chat-completions interface describes it."""
  function = {'name': name, 'description': description, 'parameters': dict(parameters)}
  return {'type': 'function', 'function': function}


def carry_out(tools: Toolbox, call: Call, timeout: float) -> Observation:
  """Runs a call as the model wrote it; a failure is an observation too. The text is valid Unicode."""
  try:
    got = _carried_out(tools, call, timeout)
  except Exception as error:  # a fault of the tools: the model continues without them, and the trace shows it
    got = Observation(f'{type(error).__name__}: {error}', True)
  text = shortened(clean(got.text))
  return dataclasses.replace(got, text=text)


def _carried_out(tools: Toolbox, call: Call, timeout: float) -> Observation:
  """Unknown names and arguments that are no JSON object are observations."""
  if not call.name:
    return Observation(f'the call could not be read: {call.arguments[:300]}', True)
  known = [s['function']['name'] for s in tools.schemas()]
  if call.name not in known:
    listed = ', '.join(known) or 'none'
    return Observation(f'there is no tool called {call.name[:100]!r}; the tools are {listed}', True)
  try:
    arguments = clean_json(parse_json(call.arguments))
  except ValueError as error:
    return Observation(f'the arguments are not JSON ({error})', True)
  if not isinstance(arguments, dict):
    return Observation(f'the arguments are {type(arguments).__name__}, expected a JSON object', True)
  return tools.call(call.name, arguments, timeout)


def shortened(text: str, most: int = MAX_CHARACTERS) -> str:
  """A text of at most about `most` characters: its head and its tail, and between them how much was left out."""
  if len(text) <= most:
    return text
  head = most * 3 // 4
  tail = most // 4
  omitted = len(text) - head - tail
  note = f'[… {omitted} of {len(text)} characters left out …]'
  return f'{text[:head]}\n{note}\n{text[-tail:]}'


def arguments_text(arguments: Mapping[str, Any]) -> str:
  """Arguments as one line for people."""
  return json.dumps(arguments, ensure_ascii=False)
