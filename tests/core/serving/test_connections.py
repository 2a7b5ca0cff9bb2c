"""Clients that are known are read at once, strangers in turn; over a protocol that only notes what it reads."""

import asyncio
import types

from core.serving.http import connections


class Transport:
  """What a connection does to its socket."""

  def __init__(self):
    self.paused = self.closed = False

  def pause_reading(self):
    self.paused = True

  def resume_reading(self):
    self.paused = False

  def is_closing(self) -> bool:
    return self.closed

  def abort(self):
    self.closed = True


class Noting:
  """In place of uvicorn's protocol: notes (name, data) in `read`; a request begins with the first data."""

  def __init__(self, name, read):
    self.name, self.read, self.connections = name, read, []
    self.loop, self.config = asyncio.get_running_loop(), types.SimpleNamespace(h11_max_incomplete_event_size=100)
    self.transport = self.flow = Transport()
    self.cycle, self.scope = None, {}

  def connection_made(self, transport):
    self.transport = transport

  def data_received(self, data):
    self.read.append((self.name, bytes(data)))
    self.cycle = types.SimpleNamespace(response_complete=False)

  def on_response_complete(self):
    self.cycle.response_complete = True


HEAD = b'GET / HTTP/1.1\r\nHost: a\r\n\r\n'


def made():
  """(makes a connection by name, what was read)."""
  bounds = {'most': 9, 'header_seconds': 60.0, 'write_seconds': 60.0, 'lane': connections.Lane()}
  protocol = type('Protocol', (connections._Bounded, Noting), bounds)
  read = []
  return lambda name: protocol(name, read), read


def known(connection):
  """The connection after a request that was served."""
  connection.cycle, connection.scope = types.SimpleNamespace(response_complete=False), {connections.SERVED: True}
  connection.on_response_complete()
  return connection


def test_a_known_client_is_read_before_a_crowd_of_strangers():
  async def scene():
    make, read = made()
    strangers = [make(n) for n in range(5)]
    for stranger in strangers:
      stranger.data_received(HEAD)
    friend = known(make('friend'))
    friend.data_received(HEAD)
    assert read == [('friend', HEAD)]
    assert all(stranger.transport.paused for stranger in strangers) and not friend.transport.paused
    for turn in range(1, 4):
      await asyncio.sleep(0)
      assert [name for name, _ in read] == ['friend', *range(min(5, turn * connections.STRANGERS))]
    assert not any(stranger.transport.paused for stranger in strangers)

  asyncio.run(scene())


def test_a_long_lane_moves_faster_and_nobody_in_it_is_cut_off():
  async def scene():
    make, read = made()
    strangers = [make(n) for n in range(10 * connections.TURNS)]
    for stranger in strangers:
      stranger.connection_made(stranger.transport)
      stranger.data_received(HEAD)
      assert stranger._head_timer is None
    await asyncio.sleep(0)
    assert len(read) == 10
    for _ in range(5 * connections.TURNS):
      await asyncio.sleep(0)
    assert [name for name, _ in read] == list(range(len(strangers)))

  asyncio.run(scene())


def test_a_head_is_read_once_it_is_complete_or_too_long():
  async def scene():
    make, read = made()
    slow, long, bare, gone = (make(name) for name in ('slow', 'long', 'bare', 'gone'))
    for position in range(len(HEAD)):
      assert not read
      slow.data_received(HEAD[position : position + 1])
    long.data_received(b'x' * 101)
    bare.data_received(b'GET / HTTP/1.1\nHost: a\n\n')
    gone.data_received(HEAD)
    gone.transport.closed = True
    for _ in range(4):
      await asyncio.sleep(0)
    assert read == [('slow', HEAD), ('long', b'x' * 101), ('bare', b'GET / HTTP/1.1\nHost: a\n\n')]
    slow.data_received(b'{')  # of the body: the request has begun
    assert read[-1] == ('slow', b'{')

  asyncio.run(scene())


def test_a_refused_client_stays_a_stranger():
  async def scene():
    make, read = made()
    refused = make('refused')
    refused.data_received(HEAD)
    await asyncio.sleep(0)
    refused.on_response_complete()
    refused.data_received(HEAD)
    assert len(read) == 1
    await asyncio.sleep(0)
    assert len(read) == 2

  asyncio.run(scene())
