"""Tool calls as models write them: JSON between tags, in the style of Qwen and Hermes."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from core.text import clean_json, parse_json

CALL = '<tool_call>'
END_CALL = '</tool_call>'
RESPONSE = '<tool_response>'
END_RESPONSE = '</tool_response>'
MAX_BODY = 1 << 16  # characters of one call


DESCRIPTION = f"""# Tools

You may call functions on the way. Their signatures, one a line:
<tools>
{{tools}}
</tools>

To call one, write a JSON object with its name and its arguments:
{CALL}
{{{{"name": "…", "arguments": {{{{…}}}}}}}}
{END_CALL}"""


def described(tools: Sequence[Mapping]) -> str:
  """The text that lists tools and explains how to call one, for a system turn."""
  return DESCRIPTION.format(tools='\n'.join(json.dumps(tool, ensure_ascii=False) for tool in tools))


def written(name: str, arguments: Any) -> str:
  """A call as the model is to write it."""
  return f'{CALL}\n{json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)}\n{END_CALL}'


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
  calls = []
  at = 0
  while len(calls) < most:
    start = text.find(CALL, at)
    end = -1
    if start >= 0:
      end = text.find(END_CALL, start + len(CALL))
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
    name = call['name']
    arguments = call['arguments']
  except KeyError as error:
    return Call(error=f'{error} is missing')
  except ValueError as error:
    return Call(error=str(error))
  except TypeError:
    return Call(error='expected a JSON object with "name" and "arguments"')
  if not isinstance(name, str):
    return Call(error=f'"name" is {type(name).__name__}, expected a string')
  return Call(name, arguments)
