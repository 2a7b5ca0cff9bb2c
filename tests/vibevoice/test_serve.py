"""The server: what it understands, what it refuses, and over raw sockets when bytes leave and rows become free."""

import asyncio
import json

import httpx
import jax
import numpy as np
import pytest
import soundfile

from core.serving import server
from tests.vibevoice import tiny
from tests.vibevoice.ledger import SPEECH
from tests.vibevoice.serving_parts import ASKED, CLIP, OFFER, Gated, guarded, listening, service
from vibevoice.generation.rows import Rows
from vibevoice.serving import fields, http, library, sound
from vibevoice.serving.service import Service


async def send(port: int, body: dict):
  """(reader, writer) of a raw connection on which a request was sent."""
  reader, writer = await asyncio.open_connection('127.0.0.1', port)
  text = json.dumps(body).encode()
  head = f'POST /v1/audio/speech HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n'
  writer.write(f'{head}Content-Length: {len(text)}\r\n\r\n'.encode() + text)
  await writer.drain()
  return reader, writer


async def chunk(reader) -> bytes:
  """One chunk of a chunked body; the last is empty."""
  size = int(await reader.readline(), 16)
  data = await reader.readexactly(size)
  assert await reader.readexactly(2) == b'\r\n'
  return data


async def until(condition) -> None:
  async with asyncio.timeout(20):
    while not condition():
      await asyncio.sleep(0.005)


def ask(made: Service, method='POST', path='/v1/audio/speech', host='127.0.0.1', **request):
  """The response to one request, in process."""

  async def one():
    transport = httpx.ASGITransport(guarded(made))
    async with httpx.AsyncClient(transport=transport, base_url=f'http://{host}') as client:
      return await client.request(method, path, **request)

  return asyncio.run(one())


@pytest.mark.parametrize(
  'change, message',
  [
    ({'voice': 'eve'}, "voice='eve': unknown; expected some of ann, bob"),
    ({'voice': None}, 'voice=None: expected a name'),
    ({'voice': ['ann', 3]}, 'voice=3: unknown'),
    ({'input': ' '}, "input=' ': expected a text or a script"),
    ({'input': 'Speaker 1: Hi.\nand then'}, "script, line 2: 'and then': expected"),
    ({'input': 'Speaker 1: Hi.\nSpeaker 2: Ho.'}, 'Speaker 2 has no voice'),
    ({'input': 'long ' * 300}, 'too many for the context of 1024'),
    ({'model': 'tts-1'}, "model='tts-1': this server has model='tiny' only"),
    ({'speed': 1.5}, 'speed=1.5: this server has speed=1 only'),
    ({'steps': 50}, 'steps=50: this server has steps=2 only'),
    ({'response_format': 'mp3'}, "response_format='mp3': expected wav or pcm"),
    ({'stream_format': 'tape'}, "stream_format='tape': expected audio or sse"),
    ({'cfg_scale': float('inf')}, 'cfg_scale'),
    ({'seed': -1}, 'seed=-1: expected a whole number'),
    ({'seed': True}, 'seed=True'),
    ({'loud': 1}, 'loud: unknown field'),
  ],
)
def test_bad_requests_are_refused_with_one_message(change, message):
  rows = Gated()
  with service(rows) as made:
    response = ask(made, content=json.dumps(ASKED | change), headers={'Content-Type': 'application/json'})
  assert response.status_code == 400 and rows.steps == 0
  told = response.json()['error']['message'] if 'cfg_scale' not in change else response.text
  assert message in told and '\n' not in told


def test_scripts_and_single_texts():
  script = fields.read(ASKED | {'input': 'Speaker 1: Hi.\nSpeaker 2: Ho.', 'voice': 'ann, bob', 'speed': 1.0}, OFFER)
  assert [line.text for line in script.lines] == ['Hi.', 'Ho.'] and script.voices == ('ann', 'bob')
  text = fields.read(ASKED | {'input': 'Hello.\nWorld.', 'seed': 3}, OFFER)
  assert [(line.speaker, line.text) for line in text.lines] == [(1, 'Hello. World.')] and text.seed == 3


def test_a_wrong_host_and_other_routes():
  with service(Gated()) as made:
    assert ask(made, 'GET', '/v1/models', host='evil.example').status_code == 421
    assert ask(made, 'GET', '/v1/models').json()['data'][0]['id'] == 'tiny'
    assert ask(made, 'GET', '/v1/voices').json() == {'voices': ['ann', 'bob']}
    assert 'espalier_speech_frames_total 0' in ask(made, 'GET', '/metrics').text
    page = ask(made, 'GET', '/')
    assert 'people who agreed' in page.text and "default-src 'none'" in page.headers['content-security-policy']
    assert 'http' not in page.text.replace('http-equiv', '')  # nothing of another server


def test_the_page_needs_no_token_and_everything_else_does():
  with service(Gated()) as made:
    app = server.guarded(http.application(made), token='secret', hosts=['127.0.0.1'], open_paths=('/',))

    async def status(path):
      async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url='http://127.0.0.1') as client:
        return (await client.get(path)).status_code

    assert [asyncio.run(status(path)) for path in ('/', '/v1/voices', '/metrics')] == [200, 401, 401]


def test_wav_bytes(tmp_path):
  samples = np.array([0, 0.5, -1, 2], np.float32)
  data = sound.wav_header(24_000) + sound.pcm16(samples)
  path = tmp_path / 'speech.wav'
  path.write_bytes(data)
  read, rate = soundfile.read(path, dtype='int16')
  assert len(sound.wav_header(24_000)) == 44 and rate == 24_000 and read.tolist() == [0, 16384, -32767, 32767]


async def heard_before_the_second(rows: Gated, made: Service):
  """Bytes of the first frame on a raw socket while only one step was permitted, then the rest."""
  async with listening(made) as port:
    rows.permits.release()
    reader, writer = await send(port, ASKED)
    head = await asyncio.wait_for(reader.readuntil(b'\r\n\r\n'), 20)
    first = await asyncio.wait_for(chunk(reader), 20)
    assert rows.steps == 1
    rows.permits.release(SPEECH)
    rest = [await asyncio.wait_for(chunk(reader), 20) for _ in range(SPEECH)]
    writer.close()
    return head, first, rest


def test_the_first_frame_leaves_before_the_second_is_computed():
  rows = Gated()
  with service(rows) as made:
    head, first, rest = asyncio.run(heard_before_the_second(rows, made))
  assert b'200 OK' in head and b'audio/wav' in head
  assert first[:4] == b'RIFF' and len(first) == 44 + 2 * tiny.HOP
  assert [len(data) for data in rest] == [2 * tiny.HOP] * (SPEECH - 1) + [0]


async def leave_and_queue(rows: Gated, made: Service, worker):
  async with listening(made) as port:
    rows.permits.release()
    reader, writer = await send(port, ASKED)
    await asyncio.wait_for(reader.readuntil(b'\r\n\r\n'), 20)
    others = [await send(port, ASKED) for _ in range(rows.count)]  # one of them waits
    await until(lambda: made.admission.queued == 1)
    refused, _ = await send(port, ASKED)
    assert b' 503 ' in await asyncio.wait_for(refused.readline(), 20)
    writer.transport.abort()
    await until(lambda: made.admission.queued == 0)  # its place is given away, and the thread is told
    rows.permits.release()
    await until(lambda: worker.counts['cancelled'] == 1)
    for _, other in others:  # none of them has a byte yet
      other.transport.abort()
    rows.permits.release(100)
    await until(lambda: worker.running == 0 and made.admission.held == 0)


def test_a_client_that_leaves_frees_its_row_for_the_one_that_waits():
  rows = Gated()
  with service(rows) as made:
    asyncio.run(leave_and_queue(rows, made, made._worker))


def test_server_sent_events():
  rows = Gated()
  rows.permits.release(SPEECH)
  with service(rows) as made:
    events = ask(made, json=ASKED | {'stream_format': 'sse'}).text.split('\n\n')
  kinds = [json.loads(event.removeprefix('data: '))['type'] for event in events if event]
  assert kinds == ['speech.audio.delta'] * SPEECH + ['speech.audio.done']


def test_a_device_that_fails_ends_all_speech():
  class Broken(Gated):
    def step(self, enter, leave):
      raise RuntimeError('device lost')

  with service(Broken()) as made:
    for _ in range(2):
      response = ask(made, json=ASKED)
      assert response.status_code == 500 and 'device lost' in response.json()['error']['message']


def test_folders_of_voices(tmp_path):
  with pytest.raises(ValueError, match='no recordings'):
    library.clips(str(tmp_path), tiny.CONFIG)
  soundfile.write(tmp_path / 'ann.wav', tiny.clip(2000), 24_000)
  assert list(library.clips(str(tmp_path), tiny.CONFIG)) == ['ann']
  soundfile.write(tmp_path / 'ann.flac', tiny.clip(2000), 24_000)
  with pytest.raises(ValueError, match='names of voices differ'):
    library.clips(str(tmp_path), tiny.CONFIG)


@pytest.fixture
def compiled(caplog):
  """The programs that are compiled from now on, in any thread."""
  jax.config.update('jax_log_compiles', True)
  yield lambda: [record.getMessage()[:60] for record in caplog.records if 'Compiling' in record.getMessage()]
  jax.config.update('jax_log_compiles', False)


@pytest.mark.slow
def test_the_model_speaks_over_http_and_compiles_nothing(compiled):
  rows = Rows(tiny.params(), tiny.CONFIG, 2, steps=2, smallest_cache=512)
  spoken = library.Library(tiny.params(), tiny.CONFIG, {'ann': CLIP, 'bob': CLIP[::-1]})
  with service(rows, spoken) as made:
    asked = ASKED | {'response_format': 'pcm', 'seed': 4}
    assert compiled()  # what was compiled at the start is seen
    before = len(compiled())
    once, again = (ask(made, json=asked) for _ in range(2))
    other = ask(made, json=asked | {'input': 'Speaker 1: A longer one.\nSpeaker 2: No.', 'voice': 'bob,ann', 'seed': 5})
    assert compiled()[before:] == []
  assert other.status_code == once.status_code == 200 and other.content != once.content
  assert len(once.content) % (2 * tiny.HOP) == 0 and len(once.content) > 0
  assert once.content == again.content
