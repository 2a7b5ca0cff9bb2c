"""Every refusal of a server, in process; and over real sockets what clients leave behind."""

import asyncio
import contextlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys

import httpx
import pytest

from core.serving import metrics, server
from core.serving.admission import Admission, Full
from core.serving.http import access, bodies, connections, sse

SMALL = server.Bounds(body_bytes=1000, buffered_bytes=1500, requests=2)


async def echo(scope, receive, send):
  """Answers with the body's length."""
  body = (await receive())['body']
  await send({'type': 'http.response.start', 'status': 200, 'headers': []})
  await send({'type': 'http.response.body', 'body': str(len(body)).encode()})


async def asked(app, method='POST', path='/', base='http://127.0.0.1:8', **request) -> int:
  async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=base) as client:
    return (await client.request(method, path, **request)).status_code


def status(**request) -> int:
  """The status of a request to a fully guarded echo on loopback; by default one that passes."""
  app = server.guarded(echo, token='secret', hosts=server.served_hosts('127.0.0.1'), bounds=SMALL)
  headers = {'Authorization': 'Bearer secret', 'Content-Type': 'application/json'} | request.pop('headers', {})
  return asyncio.run(asked(app, headers={k: v for k, v in headers.items() if v}, content=b'x', **request))


@pytest.mark.parametrize(
  'headers, expected',
  [
    ({}, 200),
    ({'Host': 'localhost:80'}, 200),
    ({'Host': '[::1]:80'}, 200),
    ({'Host': 'LOCALHOST.'}, 200),
    ({'Origin': 'http://127.0.0.1:8'}, 200),
    ({'Sec-Fetch-Site': 'same-origin'}, 200),
    ({'Content-Type': 'application/json; charset=utf-8'}, 200),
    ({'Host': 'evil.example'}, 421),
    ({'Host': '127.0.0.1.evil.example'}, 421),
    ({'Host': '127.0.0.1@evil.example'}, 421),
    ({'Host': 'localhost/'}, 421),
    ({'Host': '[::1'}, 421),
    ({'Origin': 'http://evil.example'}, 403),
    ({'Origin': 'http://127.0.0.1:9'}, 403),
    ({'Origin': 'null'}, 403),
    ({'Sec-Fetch-Site': 'cross-site'}, 403),
    ({'Authorization': ''}, 401),
    ({'Authorization': 'Bearer secre'}, 401),
    ({'Authorization': 'bearer secret'}, 401),
    ({'Content-Type': ''}, 415),
    ({'Content-Type': 'text/plain'}, 415),
    ({'Content-Type': 'application/x-www-form-urlencoded'}, 415),
  ],
)
def test_who_may_call(headers, expected):
  assert status(headers=headers) == expected


def test_health_is_told_to_anyone_and_nothing_else_is():
  plain = {'Authorization': '', 'Host': 'evil.example'}
  assert status(method='GET', path='/healthz', headers=plain) == 200
  assert status(method='GET', path='/healthz/', headers=plain) == 421


def test_a_request_without_or_with_two_hosts_is_refused():
  checked = access.KnownHost(echo, ['a'])
  scope = lambda *hosts: {'headers': [(b'host', h) for h in hosts]}
  assert checked.refusal(scope(b'a')) is None
  assert checked.refusal(scope())[0] == checked.refusal(scope(b'a', b'a'))[0] == 421


def whole(messages, **bounds):
  """(statuses, bytes still counted) of WholeBody given the messages; a pause in their place waits for ever."""
  limits = {'max_bytes': 10, 'max_buffered': 15, 'idle': 5.0, 'total': 5.0} | bounds
  body, sent = bodies.WholeBody(echo, **limits), []
  messages = list(messages)

  async def receive():
    if not messages:
      await asyncio.Event().wait()
    return messages.pop(0)

  async def send(message):
    sent.append(message)

  headers = [(b'content-length', str(sum(len(m.get('body', b'')) for m in messages)).encode())]
  asyncio.run(body({'type': 'http', 'method': 'POST', 'headers': headers if not bounds else []}, receive, send))
  return [m['status'] for m in sent if 'status' in m], body.buffered


def part(body: bytes, more: bool) -> dict:
  return {'type': 'http.request', 'body': body, 'more_body': more}


@pytest.mark.parametrize(
  'messages, bounds, statuses',
  [
    ([part(b'12345', True), part(b'67890', False)], {}, [200]),
    ([part(b'12345', True), part(b'678901', False)], {}, [413]),  # by its Content-Length
    ([part(b'12345', True), part(b'678901', True)], {'idle': 5.0}, [413]),  # as it arrives
    ([part(b'1234', True), part(b'5678', True)], {'max_buffered': 7}, [503]),
    ([part(b'1', True)], {'idle': 0.01}, [408]),
    ([part(b'1', True)], {'total': 0.01}, [408]),
    ([part(b'1', True), {'type': 'http.disconnect'}], {}, []),
  ],
)
def test_bodies_are_bounded_and_leave_nothing(messages, bounds, statuses):
  assert whole(messages, **bounds) == (statuses, 0)


def test_work_for_a_client_that_left_is_cancelled():
  async def main():
    cancelled, never = asyncio.Event(), asyncio.Event()

    async def work():
      try:
        await never.wait()
      finally:
        cancelled.set()

    async def receive():
      return {'type': 'http.disconnect'}

    assert await bodies.unless_disconnected(receive, work()) is None
    assert cancelled.is_set()
    assert await bodies.unless_disconnected(never.wait, asyncio.sleep(0, 'done')) == 'done'

  asyncio.run(main())


def test_a_full_queue_says_so_and_a_freed_place_is_given_on():
  async def main():
    admission, order = Admission(running=1, waiting=1), []
    leave = asyncio.Event()

    async def holder(name):
      async with admission.place():
        order.append(name)
        await leave.wait()

    tasks = [asyncio.ensure_future(holder(n)) for n in 'ab']
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    with pytest.raises(Full, match='1 requests are running and 1 are waiting'):
      async with admission.place():
        pass
    tasks[1].cancel()
    await asyncio.gather(tasks[1], return_exceptions=True)
    tasks.append(asyncio.ensure_future(holder('c')))
    leave.set()
    await asyncio.gather(tasks[0], tasks[2])
    assert order == ['a', 'c'] and (admission.held, admission.queued) == (0, 0)

  asyncio.run(main())


def test_requests_beyond_the_limit_get_503():
  async def main():
    inside, leave = asyncio.Event(), asyncio.Event()

    async def slow(scope, receive, send):
      inside.set()
      await leave.wait()
      await echo(scope, receive, send)

    bounds = server.Bounds(requests=1)
    app = server.guarded(slow, token=None, hosts=None, bounds=bounds)
    first = asyncio.ensure_future(asked(app, 'GET'))
    await inside.wait()
    refused = await asked(app, 'GET')
    assert await asked(app, 'GET', '/healthz') == 200
    leave.set()
    return await first, refused

  assert asyncio.run(main()) == (200, 503)


def test_a_token_is_required_unless_only_this_machine_is_served():
  assert server.choose_token('x', required=False, host='0.0.0.0') == ('x', False)
  made = [server.choose_token('', required=True, host='127.0.0.1') for _ in range(2)]
  assert made[0][1] and made[0] != made[1] and len(made[0][0]) >= 43
  for host in ('127.0.0.1', '::1', '[::1]', 'localhost', '127.1.2.3'):
    assert server.choose_token('', required=False, host=host) == (None, False)
  for host in ('0.0.0.0', '::', '192.168.1.1', 'example.org', ''):
    with pytest.raises(ValueError, match='a token is needed'):
      server.choose_token('', required=False, host=host)
  assert server.served_hosts('0.0.0.0') is None and server.served_hosts('0.0.0.0', ['a']) == ['a', '0.0.0.0']


def test_a_file_is_not_taken_for_an_old_socket(tmp_path):
  path = str(tmp_path / 's')
  with server.listen_unix(path):
    assert os.stat(path).st_mode & 0o777 == 0o600
  with server.listen_unix(path):  # an old one is replaced
    pass
  (tmp_path / 'f').write_text('kept')
  with pytest.raises(ValueError, match='no socket'):
    server.listen_unix(str(tmp_path / 'f'))
  assert (tmp_path / 'f').read_text() == 'kept'


def test_connections_stay_under_the_limit_of_descriptors(monkeypatch):
  held = {'limit': (256, 512)}
  monkeypatch.setattr(resource, 'getrlimit', lambda _: held['limit'])
  monkeypatch.setattr(resource, 'setrlimit', lambda _, limit: held.update(limit=limit))
  few = connections.most_connections(10)
  assert few == 10 and held['limit'] == (256, 512)
  many = connections.most_connections(10_000)
  assert held['limit'] == (512, 512) and 300 < many < 512 - connections.RESERVED
  held['limit'] = (20, 20)
  with pytest.raises(ValueError, match='20 file descriptors'):
    connections.most_connections(10)


def test_events_are_what_a_browser_reads():
  assert sse.event({'a': 'é\n'}) == 'data: {"a": "é\\n"}\n\n'.encode()
  assert sse.event('one\r\ntwo\rthree', name='x') == b'event: x\ndata: one\ndata: two\ndata: three\n\n'
  with pytest.raises(ValueError, match='one line'):
    sse.event('', name='a\ndata: forged')

  async def main():
    async def slow():
      yield b'a'
      await asyncio.sleep(0.05)
      yield b'b'

    return [e async for e in sse.kept_alive(slow(), seconds=0.01)]

  got = asyncio.run(main())
  assert [e for e in got if not e.startswith(b':')] == [b'a', b'b'] and b': still working\n\n' in got


def test_metrics_are_what_prometheus_reads():
  hostile = metrics.Sample('x_total', 2, 'counter', 'a\nb', {'who': 'a"\\\n'})
  text = metrics.text([hostile, metrics.Sample('y', 0.5), metrics.Sample('x_total', 3, 'counter', labels={'who': 'b'})])
  assert text.splitlines() == [
    r'# HELP x_total a\nb',
    '# TYPE x_total counter',
    r'x_total{who="a\"\\\n"} 2.0',
    'x_total{who="b"} 3.0',
    '# TYPE y gauge',
    'y 0.5',
  ]
  with pytest.raises(ValueError, match='letters'):
    metrics.Sample('a b', 1)


PROGRAM = """
import asyncio, socket, sys
from core.serving import server
from tests.core.serving.test_server import echo

async def app(scope, receive, send):
  if scope['path'] == '/open':
    names = __import__('os').listdir('/proc/self/fd')
    await send({'type': 'http.response.start', 'status': 200, 'headers': []})
    return await send({'type': 'http.response.body', 'body': str(len(names)).encode()})
  if scope['path'] == '/slow':
    print('inside', flush=True)
    await asyncio.sleep(0.5)
  await echo(scope, receive, send)

bounds = server.Bounds(header_seconds=0.3, idle_seconds=1.0, body_seconds=2.0, connections=20, header_bytes=4096)
sock = server.listen('127.0.0.1', 0)
print(sock.getsockname()[1], flush=True)
guarded = server.guarded(app, token=None, hosts=server.served_hosts('127.0.0.1'), bounds=bounds)
asyncio.run(server.serve(guarded, sock, bounds))
"""


@contextlib.contextmanager
def running():
  """(process, port) of a real server with short time-outs."""
  with subprocess.Popen([sys.executable, '-c', PROGRAM], stdout=subprocess.PIPE, text=True) as process:
    try:
      yield process, int(process.stdout.readline())
    finally:
      process.kill()


def ended(sock: socket.socket) -> bytes:
  """Everything that the server sends until it closes the connection."""
  sock.settimeout(30)
  got = b''
  with contextlib.suppress(ConnectionResetError):
    while more := sock.recv(4096):
      got += more
  return got


HEAD = b'POST / HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n'


@pytest.mark.slow
def test_clients_that_idle_stall_or_vanish_leave_nothing_behind():
  with running() as (_, port):
    descriptors = lambda: int(httpx.get(f'http://127.0.0.1:{port}/open').text)
    before = descriptors()
    idle, stalled, body = (socket.create_connection(('127.0.0.1', port)) for _ in range(3))
    stalled.sendall(HEAD[:40])
    body.sendall(HEAD + b'{')
    vanished = socket.create_connection(('127.0.0.1', port))
    vanished.sendall(HEAD + b'{')
    vanished.close()
    assert ended(idle) == b'' and ended(stalled) == b''
    assert ended(body).startswith(b'HTTP/1.1 408')
    long = socket.create_connection(('127.0.0.1', port))
    long.sendall(b'GET / HTTP/1.1\r\nHost: localhost\r\nX: ' + b'x' * 10_000)
    assert ended(long).startswith(b'HTTP/1.1 4')
    crowd = [socket.create_connection(('127.0.0.1', port)) for _ in range(40)]
    for sock in (*crowd, idle, stalled, body, long):
      ended(sock)
      sock.close()
    assert descriptors() <= before


def test_small_packets_are_not_held_back():
  """Else each response would wait for the client's delayed acknowledgement of its head."""
  with server.listen('127.0.0.1', 0) as sock, socket.create_connection(sock.getsockname()):
    connection, _ = sock.accept()
    with connection:
      assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_sigterm_lets_running_requests_end():
  with running() as (process, port):
    slow = socket.create_connection(('127.0.0.1', port))
    slow.sendall(HEAD.replace(b'POST /', b'POST /slow') + json.dumps({'a': 1}).encode() + b' ')
    assert process.stdout.readline() == 'inside\n'
    process.send_signal(signal.SIGTERM)
    assert ended(slow).startswith(b'HTTP/1.1 200')
    assert process.wait(30) == 0
    with pytest.raises(ConnectionRefusedError):
      socket.create_connection(('127.0.0.1', port))
