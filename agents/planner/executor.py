"""The executor: one task of a plan, carried out with tools, in a bounded number of steps."""

import concurrent.futures
import time
from collections.abc import Mapping, Sequence

from agents.planner import prompts
from agents.planner.ask import ask
from agents.planner.context import Group
from agents.planner.episode import Subtask, ToolCall, Watch
from agents.planner.plans import Step
from agents.toolbox import Toolbox, arguments_text, carry_out
from core.conversations.tool_calls import END_RESPONSE, RESPONSE, parse
from core.serving.client import Call, RequestFailed, Sampling

MAX_EMPTY = 3  # replies without words or calls, in a row
MAX_WRITTEN = 64  # calls that are read from a text


def execute(
  model, tools: Toolbox, history: Sequence[Group], step: Step, cycle: int, watch: Watch, sampling: Sampling, seed: int
) -> Subtask:
  """Carries out `step`; a failure is a Subtask too. history: the shared turns before it, as groups.

  A reply with calls is never taken for a result, even if it has other text; the released code of Memento ends the
  task there. All calls of a reply are in one assistant turn.
  """
  watch.say('task', f'Task {step.id}', step.description)
  head = Group(({'role': 'system', 'content': prompts.EXECUTOR},), pinned=True)
  task = Group((prompts.task_turn(step.id, step.description),), pinned=True)
  groups = [head, *history, task]
  calls: list[ToolCall] = []
  schemas = tools.schemas()
  empty = 0
  end = lambda result, stop: _ended(watch, cycle, step, result, stop, calls)
  for number in range(watch.limits.steps):
    if reason := watch.stop():
      return end(f'Not finished: out of {reason}.', reason)
    try:
      reply = ask(model, groups, watch, sampling, seed + number, schemas)
    except RequestFailed as error:
      return end(f'Not finished: {error}', watch.stop() or 'request_failed')
    wanted = reply.calls or written_calls(reply.text)
    if wanted:
      asked = wanted[: watch.limits.calls]
      done = _call_all(tools, asked, watch)
      calls += done
      if reply.calls:
        turns = _exchange(reply.text, asked, done)
      else:
        turns = _written_exchange(reply.text, done)
      left_out = _left_out(len(wanted) - len(asked))
      groups.append(Group((*turns, *left_out)))
      empty = 0
    elif reply.text.strip():
      return end(reply.text.strip(), 'done')
    else:
      empty += 1
      if empty == MAX_EMPTY:
        return end('Not finished: the executor said nothing.', 'empty')
      hint = {'role': 'user', 'content': 'Your reply was empty. Call a tool or state the result.'}
      groups.append(Group((hint,)))
  return end(f'Not finished after {watch.limits.steps} steps.', 'steps')


def _ended(watch: Watch, cycle: int, step: Step, result: str, stop: str, calls: list[ToolCall]) -> Subtask:
  watch.say('result', f'Task {step.id}: {stop}', result)
  return Subtask(cycle, step.id, step.description, result, stop, tuple(calls))


def _call_all(tools: Toolbox, calls: Sequence[Call], watch: Watch) -> list[ToolCall]:
  """Runs the calls of one reply in parallel; results in the order of the calls."""
  for call in calls:
    watch.say('call', call.name, call.arguments)
  seconds = watch.left()

  def one(call: Call) -> ToolCall:
    start = time.monotonic()
    got = carry_out(tools, call, seconds)
    took = round(time.monotonic() - start, 3)
    return ToolCall(call.name, call.arguments, got.text, got.failed, took)

  with concurrent.futures.ThreadPoolExecutor(min(len(calls), watch.limits.parallel)) as pool:
    done = list(pool.map(one, calls))
  for call in done:
    kind = 'failure' if call.failed else 'observation'
    watch.say(kind, f'{call.name}, {call.seconds:.1f} s', call.result)
  return done


def written_calls(text: str) -> tuple[Call, ...]:
  """The calls that a model wrote in its text, between tags, because its server does not read them.

  One that cannot be read has no name, and what is wrong with it in place of arguments.
  """
  read = parse(text, MAX_WRITTEN)
  calls = []
  for call in read:
    arguments = call.error or arguments_text(call.arguments)
    calls.append(Call('', call.name, arguments))
  return tuple(calls)


def _exchange(text: str, calls: Sequence[Call], done: Sequence[ToolCall]) -> list[Mapping]:
  """One assistant turn with all calls, and a tool turn for each."""
  asked = []
  results = []
  for number, (call, result) in enumerate(zip(calls, done)):
    key = call.id or f'call_{number}'
    asked.append({**call.as_turn(), 'id': key})
    results.append({'role': 'tool', 'tool_call_id': key, 'content': _told(result)})
  said = {'role': 'assistant', 'content': text, 'tool_calls': asked}
  return [said, *results]


def _written_exchange(text: str, done: Sequence[ToolCall]) -> list[Mapping]:
  """The assistant turn as it was written, and one user turn with the results between tags."""
  responses = [f'{RESPONSE}\n{_told(call)}\n{END_RESPONSE}' for call in done]
  said = {'role': 'assistant', 'content': text}
  results = {'role': 'user', 'content': '\n'.join(responses)}
  return [said, results]


def _told(call: ToolCall) -> str:
  if call.failed:
    return f'Error: {call.result}'
  return call.result


def _left_out(count: int) -> list[Mapping]:
  if not count:
    return []
  return [{'role': 'user', 'content': f'{count} more calls of that reply were not made: too many at once.'}]
