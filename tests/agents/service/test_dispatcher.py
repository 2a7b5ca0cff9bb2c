"""The dispatcher: turns, back-pressure, retries, kept states; and the service in front of it."""

import asyncio
import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import threading

import httpx
import psutil
import pytest

from agents.sandbox import Caller, HarnessError, Limits, Pool, Result
from agents.service import calls
from agents.service import http as service_http
from agents.service.client import Client
from agents.service.dispatcher import Dispatcher, Full
from core.serving import server
from tests.watchdog import HANG, ends


class Scripted:
  """A pool of one worker that notes the order of calls and answers from a script."""

  backend, report, profile = 'scripted', '', 'python'

  def __init__(self, workers=1, faults=0, sessions=2):
    self.workers, self.faults, self.limits, self.room = workers, faults, Limits(), sessions
    self.order, self.gate, self.kept = [], threading.Event(), 0
    self.gate.set()

  def run(self, code, stdin='', files=None, limits=None, caller=None):
    if not isinstance(code, str):
      raise ValueError('code is no str')
    self.gate.wait(10)
    self.order.append(code)
    if self.faults:
      self.faults -= 1
      return Result('harness', reason='scripted')
    return Result('ok', stdout=code, seconds=0.01)

  def session(self):
    if self.kept == self.room:
      raise HarnessError('full')
    self.kept += 1
    return ScriptedSession(self)

  def close(self):
    self.order.append('closed')


class ScriptedSession:
  def __init__(self, pool):
    self.pool, self.run = pool, pool.run

  def close(self):
    self.pool.kept -= 1


def test_trajectories_share_the_workers():
  async def main():
    pool = Scripted()
    pool.gate.clear()
    dispatcher = Dispatcher(pool)
    greedy = [asyncio.ensure_future(dispatcher.run('a', f'a{i}')) for i in range(6)]
    await asyncio.sleep(0.05)
    others = [asyncio.ensure_future(dispatcher.run(name, f'{name}{i}')) for i in range(2) for name in 'bc']
    await asyncio.sleep(0.05)
    pool.gate.set()
    results = await asyncio.gather(*greedy, *others)
    assert [r.stdout for r in results] == ['a0', 'a1', 'a2', 'a3', 'a4', 'a5', 'b0', 'c0', 'b1', 'c1']
    assert pool.order[:3] == ['a0', 'b0', 'c0']
    assert set(pool.order[3:5]) == {'b1', 'c1'}, 'the first call of a took longest'
    assert pool.order[5:] == ['a1', 'a2', 'a3', 'a4', 'a5']
    assert dispatcher._trajectories == {}
    await dispatcher.close()

  asyncio.run(main())


def test_a_full_queue_holds_back():
  async def main():
    pool = Scripted()
    pool.gate.clear()
    dispatcher = Dispatcher(pool, queue=2)
    calls = [asyncio.ensure_future(dispatcher.run('a', str(i))) for i in range(5)]
    await asyncio.sleep(0.05)
    assert dispatcher.figures()['waiting'] == 2
    with pytest.raises(Full):
      await dispatcher.run('a', 'x', wait=False)
    calls.append(asyncio.ensure_future(dispatcher.run('b', 'b', wait=False)))  # each may have one in the queue
    await asyncio.sleep(0.05)
    calls[1].cancel()
    pool.gate.set()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert [r.stdout if isinstance(r, Result) else type(r) for r in results] == [
      '0',
      asyncio.CancelledError,
      '2',
      '3',
      '4',
      'b',
    ]
    assert pool.order.index('b') <= 2
    assert '1' not in pool.order
    await dispatcher.close()

  asyncio.run(main())


@pytest.mark.parametrize(('faults', 'status', 'calls'), [(0, 'ok', 1), (2, 'ok', 3), (9, 'harness', 3)])
def test_only_harness_faults_are_retried(faults, status, calls):
  async def main():
    pool = Scripted(faults=faults)
    dispatcher = Dispatcher(pool, retries=2)
    assert (await dispatcher.run('a', 'x')).status == status
    assert len(pool.order) == calls
    assert dispatcher.figures()['retries'] == calls - 1
    with pytest.raises(ValueError, match='code'):
      await dispatcher.run('a', None)
    await dispatcher.close()

  asyncio.run(main())


def test_closing_answers_those_who_wait():
  async def main():
    pool = Scripted()
    pool.gate.clear()
    dispatcher = Dispatcher(pool)
    calls = [asyncio.ensure_future(dispatcher.run('a', str(i))) for i in range(3)]
    await asyncio.sleep(0.05)
    threading.Timer(0.05, pool.gate.set).start()
    await dispatcher.close()
    assert [(await c).status for c in calls] == ['ok', 'harness', 'harness']
    assert pool.order == ['0', 'closed']

  asyncio.run(main())


def test_kept_states_are_each_trajectorys_own_and_make_room():
  async def main():
    dispatcher = Dispatcher(Pool(2, Limits(wall=3.0), profile='python', sessions=2))
    try:
      for name in 'ab':
        assert (await dispatcher.run(name, f'x = {name!r}', keep=True)).ok
      both = await asyncio.gather(*(dispatcher.run(name, 'x += "!"; x', keep=True) for name in 'ab' for _ in range(3)))
      assert [r.stdout for r in both] == ["'a!'\n", "'a!!'\n", "'a!!!'\n", "'b!'\n", "'b!!'\n", "'b!!!'\n"]
      assert (await dispatcher.run('a', 'x')).status == 'error'  # a call of its own sees no state
      assert (await dispatcher.run('a', 'x', keep=True)).stdout == "'a!!!'\n"
      assert (await dispatcher.run('c', 'x = 1', keep=True)).fresh  # costs b, the longest unused, its state
      assert not (await dispatcher.run('a', 'x', keep=True)).fresh
      lost = await dispatcher.run('b', 'x', keep=True)
      assert lost.fresh
      assert lost.status == 'error'
      await dispatcher.forget('a')
      assert (await dispatcher.run('a', '1', keep=True)).fresh
      assert dispatcher.figures()['evicted_sessions'] == 2
    finally:
      await dispatcher.close()

  asyncio.run(main())


JSON, LINES = ({'Content-Type': f'application/{kind}'} for kind in ('json', 'jsonl'))


def http(dispatcher, token=None):
  app = server.guarded(service_http.application(dispatcher), token=token, hosts=['tools'], types=service_http.TYPES)
  transport = httpx.ASGITransport(app)
  return httpx.AsyncClient(transport=transport, base_url='http://tools')


def test_service_answers_and_refuses():
  async def main():
    dispatcher = Dispatcher(Scripted(2))
    async with http(dispatcher) as client:
      answer = await client.post('/run', json={'trajectory': 'a', 'code': 'x'})
      assert answer.json()['stdout'] == 'x'
      for wrong in (
        [],
        {},
        {'trajectory': 1, 'code': 'x'},
        {'trajectory': 'a'},
        {'trajectory': 'a', 'code': 'x', 'y': 1},
        {'trajectory': 'a', 'code': 'x', 'files': []},
        {'trajectory': 'a', 'code': 'x', 'stdin': 3},
        {'trajectory': 'a', 'code': 'x', 'stdin': {'base64': '!'}},
        {'trajectory': 'a', 'code': 'x', 'limits': {'y': 1}},
        {'trajectory': 'a', 'code': 'x', 'limits': {'wall': -1}},
      ):
        assert (await client.post('/run', json=wrong)).status_code == 400, wrong
      assert (await client.post('/run', content=b'{', headers=JSON)).status_code == 400
      assert (await client.post('/run', content=b'[' * 10**5, headers=JSON)).status_code == 400
      assert (await client.post('/run', content=b'{}')).status_code == 415
      lines = '\n'.join(json.dumps({'trajectory': str(i), 'code': str(i)}) for i in range(20)) + '\nnonsense\n'
      answers = [
        json.loads(line) for line in (await client.post('/batch', content=lines, headers=LINES)).text.splitlines()
      ]
      assert sorted(a['index'] for a in answers) == list(range(21))
      assert all(a.get('stdout') == str(a['index']) for a in answers if a['index'] < 20)
      assert 'refused' in next(a for a in answers if a['index'] == 20)
      figures = (await client.get('/figures')).json()
      scraped = (await client.get('/metrics')).text
      assert '# TYPE espalier_tools_status_ok counter\nespalier_tools_status_ok 21.0\n' in scraped
      assert figures['status_ok'] == 21
      assert 0 <= figures['queued_p50'] <= figures['queued_p99']
      assert (await client.get('/health')).json()['backend'] == 'scripted'
    async with http(dispatcher, 'secret') as client:
      assert (await client.get('/metrics')).status_code == 401
      assert (await client.get('/metrics', headers={'Authorization': 'Bearer secre'})).status_code == 401
      assert (await client.get('/metrics', headers={'Authorization': 'Bearer secret'})).status_code == 200
      assert (await client.get('/healthz')).text == 'ok\n'
    await dispatcher.close()

  asyncio.run(main())


def test_a_call_and_a_result_survive_json():
  options = {
    'stdin': b'\xff',
    'files': {'a': 'é', 'b': b'\x00'},
    'limits': Limits(wall=1.0),
    'keep': True,
    'wait': False,
  }
  body = json.loads(json.dumps(calls.write_call('t', 'print(1)', options)))
  assert calls.read_call(body, Limits()) == ('t', 'print(1)', options)
  plain = calls.read_call(calls.write_call('t', '1', {}), Limits())[2]
  assert plain == {'stdin': '', 'files': {}, 'limits': Limits(), 'keep': False, 'wait': True}
  result = Result('error', stdout='é', omitted=(1, 2), seconds=0.5)
  assert calls.read_result(json.loads(json.dumps(calls.write_result(result)))) == result
  with pytest.raises(TypeError, match='stdn'):
    calls.write_call('t', '1', {'stdn': ''})


def test_limits_may_only_be_lowered():
  limits = Limits(wall=4.0)
  assert calls.lowered(limits, {'wall': 1.0, 'memory': 2**60}) == dataclasses.replace(limits, wall=1.0)
  assert calls.lowered(limits, None) == limits


def test_a_caller_that_leaves_takes_its_call_along():
  async def main():
    pool = Scripted()
    pool.gate.clear()
    dispatcher = Dispatcher(pool)
    app, body = service_http.application(dispatcher), json.dumps({'trajectory': 'a', 'code': 'lost'}).encode()
    first = asyncio.ensure_future(dispatcher.run('b', 'first'))
    messages = [{'type': 'http.request', 'body': body, 'more_body': False}, {'type': 'http.disconnect'}]
    scope = {'type': 'http', 'method': 'POST', 'path': '/run', 'headers': [], 'query_string': b''}

    async def receive():
      return messages.pop(0)

    async def send(message):
      pass

    await app(scope, receive, send)
    pool.gate.set()
    assert (await first).ok
    await dispatcher.close()
    assert pool.order == ['first', 'closed']

  asyncio.run(main())


@pytest.fixture
def service(tmp_path):
  """A running `python -m agents.serve_tools` and the address of its unix socket."""
  path = str(tmp_path / 'tools.sock')
  command = [sys.executable, '-m', 'agents.serve_tools', f'--uds={path}', '--workers=2', '--profile=python']
  with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
    assert 'listening' in process.stdout.readline()
    assert 'holds' in process.stdout.readline()
    yield f'unix:{path}', process
    process.terminate()
    assert process.wait(10) == 0


@pytest.mark.slow
def test_a_service_that_is_told_to_end_at_once_ends(tmp_path):
  """Between its last line and the first request it forks its server, which must not swallow the signal."""
  command = [sys.executable, '-m', 'agents.serve_tools', f'--uds={tmp_path / "tools.sock"}', '--workers=1']
  for number, status in ((signal.SIGTERM, 0), (signal.SIGINT, 130), (signal.SIGTERM, 0)):
    with subprocess.Popen([*command, '--profile=python'], stdout=subprocess.PIPE, text=True) as process:
      assert 'listening' in process.stdout.readline()
      assert 'workers' in process.stdout.readline()
      process.send_signal(number)
      try:
        assert process.wait(30) in (status, -number)  # the latter before the watch begins
      finally:
        process.kill()


def test_service_over_a_unix_socket(service):
  async def main():
    client = Client(service[0])
    assert os.stat(service[0].removeprefix('unix:')).st_mode & 0o777 == 0o600
    results = await asyncio.gather(*(client.run(str(i), f'{i} + 1') for i in range(50)))
    assert [r.stdout for r in results] == [f'{i + 1}\n' for i in range(50)]
    assert (await client.run('a', 'x = 1', keep=True)).ok
    assert (await client.run('a', 'x', keep=True)).stdout == '1\n'
    assert (
      await client.run('a', 'open("f", "rb").read() + open(0, "rb").read()', stdin=b'\xff', files={'f': b'\0'})
    ).stdout == "b'\\x00\\xff'\n"
    await client.forget('a')
    assert (await client.run('a', '1', keep=True)).fresh
    with pytest.raises(ValueError, match='400'):
      await client.run('a', '1', files={'../x': ''})
    assert (await client.figures())['calls'] >= 50
    await client.close()

  asyncio.run(main())


@pytest.mark.slow
def test_service_survives_the_death_of_its_parts(service):
  """Server, seed, zygote or slot die at random under load: every call is answered, and service comes back each time."""
  watchdog = psutil.Process(service[1].pid)
  rng, results, done = random.Random(1), [], asyncio.Event()

  async def load(client, name):
    while not done.is_set():
      results.append(await client.run(name, '6 * 7'))

  async def good_again():
    seen = len(results)
    while sum(r.ok for r in results[seen:]) < 20:
      await asyncio.sleep(0.01)

  async def kill():
    for _ in range(6):
      await good_again()
      victims = watchdog.children(recursive=True)
      try:
        rng.choice([v for v in victims if v.name()] or victims).kill()
      except (psutil.NoSuchProcess, IndexError):
        continue
    await good_again()
    done.set()

  async def main():
    client = Client(service[0])
    await asyncio.gather(kill(), *(load(client, str(i)) for i in range(4)))
    server = next(
      p for p in watchdog.children() if p.status() != psutil.STATUS_ZOMBIE and p.cmdline() == watchdog.cmdline()
    )
    server.kill()
    assert (await client.run('a', '1')).stdout == '1\n'
    await client.close()

  with ends():
    asyncio.run(main())
  assert {r.status for r in results} <= {'ok', 'harness', 'error'}
  assert all(r.stdout == '42\n' for r in results if r.ok)
  assert sum(r.ok for r in results) > 100


def test_a_caller_that_leaves_frees_its_worker_and_is_not_run_again():
  """The only worker would be busy for ten minutes; it is free as soon as its caller has left."""

  async def leave_and_call(pool):
    dispatcher = Dispatcher(pool)
    begun = asyncio.ensure_future(dispatcher.run('a', 'import time\ntime.sleep(600)', limits=Limits(wall=600.0)))
    waits = asyncio.ensure_future(dispatcher.run('b', '6 * 7'))
    while not dispatcher.figures()['running']:
      await asyncio.sleep(0.01)
    begun.cancel()
    result = await asyncio.wait_for(waits, HANG)
    again = await dispatcher.run('a', '1')
    figures = dispatcher.figures()
    await dispatcher.close()
    return result, again, figures

  with Pool(1, profile='python') as pool:
    result, again, figures = asyncio.run(leave_and_call(pool))
  assert (result.stdout, again.stdout) == ('42\n', '1\n')
  assert (figures['callers_left'], figures['retries'], figures['status_harness']) == (1, 0, 0)


def test_a_caller_that_left_before_its_call_began_or_after_it_ended_changes_nothing():
  with Pool(1, profile='python') as pool:
    early, late = Caller(), Caller()
    early.leave()
    assert pool.run('while True: pass', limits=Limits(wall=600.0, cpu=600.0), caller=early).reason == 'the caller left'
    assert pool.run('6 * 7', caller=late).stdout == '42\n'
    late.leave()
    slot = pool._idle.queue[0]
    slot.abandon()  # too late, as when a call ends at the same moment
    assert pool.run('6 * 7').stdout == '42\n'
    assert pool._idle.queue[0] is slot
