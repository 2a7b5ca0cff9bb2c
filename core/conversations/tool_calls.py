"""Tool calls as models write them: JSON between tags, in the style of Qwen and Hermes."""

import dataclasses
from typing import Any

from core.text import clean_json, parse_json

CALL, END_CALL = '<tool_call>', '</tool_call>'
RESPONSE, END_RESPONSE = '<tool_response>', '</tool_response>'
MAX_BODY = 1 << 16  # characters of one call


@dataclasses.dataclass(frozen=True)
class Call:
  """A call as parsed: `error` says why it could not be, and is empty if it could."""

  name: str = ''
  arguments: Any = None
  error: str = ''


def parse(text: str, most: int = 1) -> list[Call]:
  """The first `most` tool calls of an assistant turn; later ones are dropped, an unclosed one is none.

  A body that is no JSON object with "name" and "arguments" is a Call with `error`, to be answered so that the model
  sees its mistake. Takes time linear in any text.
  """
  calls, at = [], 0
  while len(calls) < most:
    start = text.find(CALL, at)
    end = text.find(END_CALL, start + len(CALL)) if start >= 0 else -1
    if end < 0:
      return calls
    calls.append(read(text[start + len(CALL) : end]))
    at = end + len(END_CALL)
  return calls


def read(body: str) -> Call:
  """The call whose text between the tags is `body`."""
  if len(body) > MAX_BODY:
    return Call(error=f'{len(body)} characters, expected at most {MAX_BODY}')
  try:
    call = clean_json(parse_json(body))
    name, arguments = call['name'], call['arguments']
  except KeyError as error:
    return Call(error=f'{error} is missing')
  except ValueError as error:
    return Call(error=str(error))
  except TypeError:
    return Call(error='expected a JSON object with "name" and "arguments"')
  if not isinstance(name, str):
    return Call(error=f'"name" is {type(name).__name__}, expected a string')
  return Call(name, arguments)
