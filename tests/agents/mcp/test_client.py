"""The MCP client against servers that crash, stall, print junk and answer too much."""

import concurrent.futures
import json
import pathlib
import sys
import time

import psutil
import pytest
from mcp import StdioServerParameters
from mcp.server.mcpserver import MCPServer

from agents.mcp.client import McpTools, ServerFailed, read_config
from agents.toolbox import MAX_CHARACTERS, carry_out
from core.serving.client import Call
from tests.watchdog import ends

SCRIPT = str(pathlib.Path(__file__).with_name('bad_server.py'))
RAW = str(pathlib.Path(__file__).with_name('raw_server.py'))
bad = lambda *args: StdioServerParameters(command=sys.executable, args=[SCRIPT, *args])


@pytest.fixture(scope='module')
def tools():
  with McpTools({'bad': bad()}) as tools:
    yield tools


def alive(tools):
  return tools.call('echo', {'text': 'still here'}, 30.0).text == 'still here'


def test_tools_come_with_their_schemas(tools):
  by_name = {s['function']['name']: s['function'] for s in tools.schemas()}
  assert set(by_name) == {'echo', 'crash', 'stall', 'large', 'refuse', 'fail'}
  assert by_name['echo']['description'] == 'Says it again.'
  assert by_name['echo']['parameters']['required'] == ['text']


@pytest.mark.slow
def test_a_server_that_crashes_mid_call_is_started_again(tools):
  got = tools.call('crash', {}, 30.0)
  assert got.failed and 'ended during the call' in got.text
  assert alive(tools)


@pytest.mark.slow
def test_a_server_that_stalls_is_given_up_in_time_and_started_again(tools):
  with ends():
    got = tools.call('stall', {}, 0.5)
  assert got.failed and 'no answer within 0.5 s' in got.text
  assert alive(tools)


@pytest.fixture(scope='module')
def raw():
  with McpTools({'raw': StdioServerParameters(command=sys.executable, args=[RAW])}) as tools:
    yield tools


def test_junk_between_messages_is_passed_over(raw):
  got = raw.call('junk', {'lines': 20}, 30.0)
  assert (got.text, got.failed) == ('answered', False)
  assert alive(raw)


@pytest.mark.slow
def test_endless_junk_gives_the_server_up(raw):
  got = raw.call('junk', {'lines': 5000}, 60.0)
  assert got.text == 'answered' or got.failed
  assert alive(raw)


@pytest.mark.slow
@pytest.mark.parametrize('name', ['binary', 'half', 'wrong', 'flood', 'close', 'surrogate'])
def test_what_is_no_answer_is_an_observation_in_time(raw, name):
  with ends():
    got = raw.call(name, {}, 2.0)
  assert got.failed
  assert alive(raw)


def test_parts_that_are_no_text_are_named_and_their_data_left_out(raw):
  assert raw.call('picture', {}, 10.0).text == 'seen\n[image: image/png, 3 bytes]\nend'
  held = '[resource file:///page]\nthe page\n[resource file:///data: 3 bytes]\n[resource more: file:///more]'
  assert raw.call('resources', {}, 10.0).text == held
  assert raw.call('structured', {}, 10.0).text == '{"sum": 5}'


@pytest.mark.slow
def test_ten_megabytes_arrive_and_are_shortened_for_the_model(tools):
  got = carry_out(tools, Call('', 'large', '{}'), 60.0)
  assert not got.failed and got.text.startswith('headxx') and got.text.endswith('xxtail')
  assert len(got.text) < MAX_CHARACTERS + 200 and 'of 10000008 characters' in got.text
  assert alive(tools)


def test_errors_of_tools_and_arguments_are_observations(tools):
  assert tools.call('refuse', {}, 30.0).failed and 'not today' in tools.call('refuse', {}, 30.0).text
  got = tools.call('fail', {}, 30.0)
  assert got.failed and 'a secret' not in got.text
  assert tools.call('echo', {'text': 5}, 30.0).failed
  assert tools.call('echo', {}, 30.0).failed
  assert alive(tools)


def test_calls_side_by_side_outlive_a_neighbour_s_crash(tools):
  with concurrent.futures.ThreadPoolExecutor(8) as pool:
    asked = [pool.submit(tools.call, 'echo', {'text': str(i)}, 30.0) for i in range(20)]
    crashed = pool.submit(tools.call, 'crash', {}, 30.0)
    answers = [a.result() for a in asked]
    assert crashed.result().failed
  assert all(a.failed or a.text == str(i) for i, a in enumerate(answers))
  assert alive(tools)


@pytest.mark.slow
def test_restarts_are_bounded():
  with McpTools({'bad': bad()}, restarts=1) as tools:
    for _ in range(2):
      assert 'ended during the call' in tools.call('crash', {}, 30.0).text
    assert 'failed too often' in tools.call('echo', {'text': 'x'}, 30.0).text


@pytest.mark.slow
@pytest.mark.parametrize(
  ('server', 'message'),
  [
    (bad('--exit'), 'bad: '),
    (bad('--deaf'), 'did not start within 3 s'),
    (StdioServerParameters(command='/nonexistent/server'), 'nonexistent'),
  ],
)
def test_a_server_that_does_not_start_is_named(server, message):
  with pytest.raises(ServerFailed, match=message):
    McpTools({'bad': server}, start_seconds=3.0)


def test_two_tools_of_one_name_are_refused():
  def named(name):
    server = MCPServer(name, log_level='CRITICAL')
    server.tool()(lookup)
    return server

  def lookup(word: str) -> str:
    """Looks up."""
    return word

  with pytest.raises(ServerFailed, match="'lookup' is in both 'a' and 'b'"):
    McpTools({'a': named('a'), 'b': named('b')})


@pytest.mark.slow
def test_leaving_ends_every_process():
  before = {p.pid for p in psutil.Process().children(recursive=True)}
  with McpTools({'one': bad()}) as tools:
    tools.call('stall', {}, 0.3)
    assert alive(tools)
  with ends():
    while not {p.pid for p in psutil.Process().children(recursive=True)} <= before:
      time.sleep(0.01)


@pytest.mark.parametrize('text', ['', '[]', '{"mcpServers": 5}', '{"mcpServers": {"a": {"command": 5}}}', '[' * 10**5])
def test_configurations_that_are_none_are_refused(text, tmp_path):
  (tmp_path / 'c.json').write_text(text)
  with pytest.raises(ValueError, match='not a list of MCP servers'):
    read_config(tmp_path / 'c.json')


def test_configurations_name_commands_and_addresses(tmp_path):
  entries = {'a': {'command': 'x', 'args': ['y'], 'env': {'K': 'v'}}, 'b': {'url': 'http://127.0.0.1/mcp'}}
  (tmp_path / 'c.json').write_text(json.dumps({'mcpServers': entries}))
  found = read_config(tmp_path / 'c.json')
  assert (found['a'].command, found['a'].env, found['b']) == ('x', {'K': 'v'}, 'http://127.0.0.1/mcp')
