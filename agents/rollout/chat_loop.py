"""The same rollouts on any OpenAI-compatible endpoint: the server renders and samples, we parse, run and bound."""

import concurrent.futures
import dataclasses
from collections.abc import Mapping, Sequence

from agents.rollout.tools import Runner
from agents.rollout.trajectory import Bounds, Trace, Turn
from core.conversations.tool_calls import CALL, END_RESPONSE, RESPONSE, Call, parse
from core.serving.client import Endpoint, Reply, RequestFailed, Sampling
from core.text import clean_json, parse_json


@dataclasses.dataclass
class Conversation(Trace):
  """A conversation as chat messages; `error` says why the endpoint gave up."""

  messages: list[dict] = dataclasses.field(default_factory=list)
  seed: int = 0
  error: str = ''


def converse(
  endpoint: Endpoint,
  messages: Sequence[Mapping],
  *,
  runner: Runner,
  bounds: Bounds,
  sampling: Sampling,
  seed: int = 0,
  tools: Sequence[Mapping] = (),
) -> Conversation:
  """One conversation, from `messages` (system and user turns) to its end.

  tools: schemas, for servers that parse calls themselves; calls in the text are read as `agents.rollout.protocol`
  does. A server that counts tokens is held to `bounds.response`, another to the reply limit of `sampling` in every
  turn.
  """
  c = Conversation(messages=[dict(m) for m in messages], seed=seed)
  first = spent = 0
  while not c.stop:
    left = bounds.response - spent
    try:
      reply = endpoint.chat(
        c.messages, dataclasses.replace(sampling, max_tokens=min(sampling.max_tokens, left)), seed + len(c.turns), tools
      )
    except RequestFailed as error:
      c.stop = 'request_failed'
      c.error = str(error)
      return c
    first = first or reply.prompt_tokens
    spent = reply.prompt_tokens + reply.reply_tokens - first
    calls = _hear(c, reply, bounds, spent)
    if calls:
      responses = runner.start(str(seed), [call for _, call in calls]).result()
      c.respond(responses)
      c.messages += _tool_turns([id for id, _ in calls], [r.text for r in responses])
  return c


def _hear(c: Conversation, reply: Reply, bounds: Bounds, spent: int) -> list[tuple[str, Call]]:
  """Notes a reply; its calls with the server's ids ('' if they were in the text), or none if it was the last."""
  given = reply.calls[: bounds.calls]
  c.turns.append(Turn(reply.text))
  c.messages.append(
    {'role': 'assistant', 'content': reply.text} | ({'tool_calls': [call.as_turn() for call in given]} if given else {})
  )
  if reply.finish == 'length' or spent >= bounds.response:
    c.stop = 'length'
  elif len(c.turns) >= bounds.turns:
    c.stop = 'turns'
  elif bounds.user_turns is not None and len(c.turns) > bounds.user_turns:
    c.stop = 'user_turns'
  if c.stop:
    return []
  calls = [(call.id, _read(call.name, call.arguments)) for call in given]
  if not calls and CALL in reply.text:
    calls = [('', call) for call in parse(reply.text, bounds.calls)]
  if not calls:
    c.stop = 'final'
  return calls


def _read(name: str, arguments: str) -> Call:
  try:
    return Call(name, clean_json(parse_json(arguments)))
  except ValueError as error:
    return Call(name, error=str(error))


def _tool_turns(ids: Sequence[str], responses: Sequence[str]) -> list[dict]:
  if all(ids):
    return [{'role': 'tool', 'tool_call_id': id, 'content': text} for id, text in zip(ids, responses)]
  marked = [f'{RESPONSE}\n{text}\n{END_RESPONSE}' for text in responses]
  return [{'role': 'user', 'content': '\n'.join(marked)}]


def rollout(
  endpoint: Endpoint,
  conversations: Sequence[Sequence[Mapping]],
  seeds: Sequence[int],
  *,
  concurrency: int = 32,
  **options,
) -> list[Conversation]:
  """`converse` for each conversation and seed, in their order, `concurrency` at a time."""
  one = lambda messages, seed: converse(endpoint, messages, seed=seed, **options)
  with concurrent.futures.ThreadPoolExecutor(concurrency) as threads:
    return list(threads.map(one, conversations, seeds))
