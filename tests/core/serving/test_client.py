"""Tool calls over the chat-completions interface: what is sent, and what of a reply is believed."""

import json

import pytest

from core.serving.client import Call, Endpoint, Reply, RequestFailed, Retry, Sampling
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
