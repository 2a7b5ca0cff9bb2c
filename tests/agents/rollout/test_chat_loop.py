"""Rollouts on a chat endpoint: calls that the server parsed and calls in the text, and every way to end."""

import pytest

from agents.rollout.chat_loop import converse, rollout
from agents.rollout.protocol import call_text
from agents.rollout.tools import Response, Runner
from agents.rollout.trajectory import Bounds
from core.serving.client import Call, Reply, RequestFailed, Sampling

ASK = [{'role': 'user', 'content': '2+2'}]
DONE = Reply('<answer>\\boxed{4}</answer>', prompt_tokens=50, reply_tokens=10)
PARSED = Reply('I compute.', calls=(Call('id1', 'python', '{"code": "7"}'),), prompt_tokens=10, reply_tokens=20)
TEXT = Reply(call_text('python', {'code': '7'}), prompt_tokens=10, reply_tokens=20)


class Scripted:
  """Replies in turn; notes what it was asked."""

  def __init__(self, *replies):
    self.replies, self.asked = replies, []

  def chat(self, messages, sampling, seed, tools=(), *, seconds=float('inf')):
    self.asked.append((list(messages), sampling, seed))
    reply = self.replies[sum(m['role'] == 'assistant' for m in messages)]
    if isinstance(reply, Exception):
      raise reply
    return reply


@pytest.fixture
def runner():
  async def echo(trajectory, arguments):
    return Response('says ' + arguments['code'], 'ok')

  async def garbled(trajectory, arguments):
    if arguments:
      raise ValueError('\ud800')
    return Response('\ud800', 'ok')

  runner = Runner({'python': echo, 'garbled': garbled})
  yield runner
  runner.close()


def run(runner, *replies, bounds=None, max_tokens=100):
  endpoint = Scripted(*replies)
  return converse(
    endpoint, ASK, runner=runner, bounds=bounds or Bounds(1000), seed=5, sampling=Sampling(1.0, max_tokens=max_tokens)
  ), endpoint


def test_calls_that_the_server_parsed(runner):
  c, endpoint = run(runner, PARSED, DONE)
  assert c.stop == 'final' and c.turns[0].responses[0].text == 'says 7'
  assert c.messages[1:3] == [
    {'role': 'assistant', 'content': 'I compute.', 'tool_calls': [PARSED.calls[0].as_turn()]},
    {'role': 'tool', 'tool_call_id': 'id1', 'content': 'says 7'},
  ]
  assert [seed for _, _, seed in endpoint.asked] == [5, 6]


def test_calls_in_the_text(runner):
  c, _ = run(runner, TEXT, DONE)
  assert c.stop == 'final'
  assert c.messages[2] == {'role': 'user', 'content': '<tool_response>\nsays 7\n</tool_response>'}


def test_arguments_that_are_no_json_are_answered(runner):
  broken = Reply('', calls=(Call('id1', 'python', '{"code": '),), prompt_tokens=1, reply_tokens=1)
  c, _ = run(runner, broken, DONE)
  assert c.responses[0].status == 'undecodable' and c.stop == 'final'


@pytest.mark.parametrize(('arguments', 'text'), [({}, '?'), ({'fail': 1}, 'Error when executing tool: ValueError: ?')])
def test_what_a_tool_returns_or_raises_is_valid_unicode(runner, arguments, text):
  c, _ = run(runner, Reply(call_text('garbled', arguments)), DONE)
  assert (c.responses[0].text, c.stop) == (text, 'final')


def test_limits(runner):
  assert run(runner, PARSED, PARSED, bounds=Bounds(1000, turns=1))[0].stop == 'turns'
  assert run(runner, PARSED, PARSED, bounds=Bounds(1000, user_turns=0))[0].stop == 'user_turns'
  assert run(runner, Reply('x', 'length'))[0].stop == 'length'
  _, endpoint = run(runner, PARSED, DONE, bounds=Bounds(60), max_tokens=50)
  assert [s.max_tokens for _, s, _ in endpoint.asked] == [50, 40]
  assert run(runner, PARSED, bounds=Bounds(20))[0].stop == 'length'


def test_an_endpoint_that_gives_up_ends_its_conversation_alone(runner):
  c, _ = run(runner, PARSED, RequestFailed('status 500'))
  assert c.stop == 'request_failed' and c.error == 'status 500' and len(c.turns) == 1
  done = rollout(
    Scripted(DONE), [ASK] * 9, range(9), concurrency=3, runner=runner, bounds=Bounds(100), sampling=Sampling()
  )
  assert [c.seed for c in done] == list(range(9)) and {c.stop for c in done} == {'final'}
