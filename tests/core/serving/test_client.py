"""Tool calls over the chat-completions interface: what is sent, and what of a reply is believed."""

import json

import pytest

from core.serving.client import Call, ContextTooLong, Endpoint, Reply, RequestFailed, Retry, Sampling
from tests.bench.chat_server import serve


def message(**fields):
  usage = fields.pop('usage', None)
  body = {'choices': [{'message': fields, 'finish_reason': 'tool_calls'}], **({'usage': usage} if usage else {})}
  return 200, json.dumps(body).encode()


def chat(reply, turns=({'role': 'user', 'content': 'hi'},), tools=()):
  with serve(lambda n, body: reply) as (url, requests):
    client = Endpoint(url, 'm', retry=Retry(attempts=2, first=0.01, longest=0.01), timeout=5.0)
    return client.chat(turns, Sampling(), 0, tools), requests


def test_calls_and_tokens_are_read_and_arguments_stay_text():
  calls = [{'id': 'a', 'function': {'name': 'f', 'arguments': '{"x": \ud800'}}, {'function': {'name': 'g'}}]
  reply, _ = chat(message(content=None, tool_calls=calls, usage={'prompt_tokens': 7, 'completion_tokens': True}))
  assert reply == Reply('', 'stop', (Call('a', 'f', '{"x": ?'), Call('', 'g', '{}')), 7, 0)
  assert chat(message(content='x', usage={'prompt_tokens': 'many', 'completion_tokens': -5}))[0] == Reply('x')


def test_tools_and_the_turns_of_earlier_calls_are_sent_as_they_are():
  tool = {'type': 'function', 'function': {'name': 'f', 'parameters': {}}}
  turns = [
    {'role': 'assistant', 'content': '', 'tool_calls': [Call('a', 'f', '{}').as_turn()]},
    {'role': 'tool', 'tool_call_id': 'a', 'content': 'done'},
  ]
  _, requests = chat(message(content='x'), turns, [tool])
  assert requests[0]['tools'] == [tool] and requests[0]['messages'] == turns
  assert 'tools' not in chat(message(content='x'))[1][0]


@pytest.mark.parametrize(
  'calls',
  [
    5,
    'f',
    [5],
    [{}],
    [{'function': 'f'}],
    [{'function': {'name': 5}}],
    [{'function': {'name': 'f', 'arguments': {'x': 1}}}],
    [{'id': 5, 'function': {'name': 'f'}}],
  ],
)
def test_malformed_calls_are_asked_for_again(calls):
  with pytest.raises(RequestFailed, match='2 attempts'):
    chat(message(content=None, tool_calls=calls))


def failing(body, status=200):
  seen = []
  with serve(lambda n, request: seen.append(n) or (status, json.dumps(body).encode())) as (url, _):
    client = Endpoint(url, 'm', retry=Retry(attempts=3, first=0.01, longest=0.01), timeout=5.0)
    with pytest.raises(RequestFailed) as raised:
      client.chat([{'role': 'user', 'content': 'hi'}], Sampling(), 0)
  return raised.value, len(seen)


def test_an_error_with_status_200_is_said_once_unless_its_code_may_pass():
  error, asked = failing({'error': {'message': 'no such model', 'code': 404}})
  assert 'no such model' in str(error) and (error.status, asked) == (404, 1)
  assert failing({'error': 'quota is used up'})[1] == 1
  assert failing({'error': {'message': 'busy', 'code': 429}})[1] == 3


@pytest.mark.parametrize(
  'message',
  [
    "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens.",
    'the request exceeds the available context size, try increasing it',
    'code: context_length_exceeded',
  ],
)
def test_refusals_for_too_long_turns_are_told_from_others(message):
  assert isinstance(failing({'error': {'message': message}}, 400)[0], ContextTooLong)
  assert not isinstance(failing({'error': {'message': 'unknown field'}}, 400)[0], ContextTooLong)


def test_seconds_bound_all_attempts_together():
  pauses = []
  with serve(lambda n, request: (503, b'')) as (url, requests):
    retry = Retry(attempts=50, first=100.0, longest=100.0)
    client = Endpoint(url, 'm', retry=retry, timeout=600.0, sleep=pauses.append)
    with pytest.raises(RequestFailed, match='1 attempts'):
      client.chat([{'role': 'user', 'content': 'hi'}], Sampling(), 0, seconds=20.0)
  assert (len(requests), pauses) == (1, [])


def test_lone_surrogates_in_a_turn_do_not_end_a_run():
  reply, requests = chat(message(content='x'), [{'role': 'user', 'content': 'a\ud800b'}])
  assert reply.text == 'x' and requests[0]['messages'][0]['content'] == 'a?b'
