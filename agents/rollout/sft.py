"""Supervised examples of the tool format: conversations as token ids, with a mask on what the assistant says."""

import dataclasses
from collections.abc import Mapping, Sequence

from agents.rollout.protocol import Protocol, call_text
from core.text import parse_json


@dataclasses.dataclass(frozen=True)
class Example:
  """Token ids of a whole conversation, and which of them are learned."""

  ids: list[int]
  mask: list[bool]


def example(messages: Sequence[Mapping], protocol: Protocol) -> Example:
  """A conversation of a user turn, then assistant and tool turns, exactly as a rollout would have left it.

  An assistant turn is its `content` and then its `tool_calls`, as the chat-completions interface has them; content that
  does not begin with the opening gets it. Tool turns in a row share one turn.
  Raises ValueError on another order of roles, or a call whose arguments are no JSON object.
  """
  if not messages or messages[0]['role'] != 'user' or messages[-1]['role'] != 'assistant':
    raise ValueError(f'roles {[m["role"] for m in messages]}: expected user first and assistant last')
  ids = protocol.prompt(messages[0]['content'])
  mask = [False] * len(ids)
  before = 'user'
  pending = []
  for m in messages[1:]:
    if (before, m['role']) not in (
      ('user', 'assistant'),
      ('assistant', 'tool'),
      ('tool', 'tool'),
      ('tool', 'assistant'),
    ):
      raise ValueError(f'a turn of {m["role"]} after one of {before}')
    before = m['role']
    if before == 'tool':
      pending.append(m['content'])
      continue
    if pending:
      new = protocol.tool_turn(pending)
      ids = ids + new
      mask = mask + [False] * len(new)
      pending = []
    new = protocol.assistant(_assistant_text(m).removeprefix(protocol.opening))
    ids = ids + new
    mask = mask + [True] * len(new)
  return Example(ids, mask)


def _assistant_text(message: Mapping) -> str:
  calls = []
  for call in message.get('tool_calls') or ():
    name = call['function']['name']
    arguments = call['function']['arguments']
    if isinstance(arguments, str):
      arguments = parse_json(arguments)
    if not isinstance(arguments, dict):
      raise ValueError(f'a call of {name!r} with {type(arguments).__name__} arguments: expected an object')
    calls.append(call_text(name, arguments))
  content = message.get('content') or ''
  return '\n'.join([content, *calls] if content else calls)
