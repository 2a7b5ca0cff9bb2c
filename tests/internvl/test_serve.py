"""InternVL over HTTP: what it shows the model, and that decoupling its towers changes nothing that is said."""

import asyncio
import json
import shutil
import subprocess

import httpx
import numpy as np
import openai
import pytest

import internvl
from core.serving.stepping import Failed
from internvl.inputs import tiles
from internvl.serving import wire
from internvl.serving.vision import Encoder
from tests.internvl import serving_parts as parts
from tests.internvl import tiny

ASKED = [('What?', 0), ('Both?', 1, 2), ('None?',), ('All?', 0, 1, 2, 3)]
MODES = ('off', 'auto', 'absolute', 'all')


@pytest.fixture(scope='module')
def coupled():
  with parts.serving('coupled') as url:
    yield url


@pytest.fixture(scope='module')
def client(coupled):
  with openai.OpenAI(base_url=coupled, api_key='secret', max_retries=0, timeout=60) as made:
    yield made


def ask(client, messages, **options):
  extra = {name: options.pop(name) for name in [*options] if name in ('compression', 'max_tiles', 'tile_details')}
  fixed = {'model': 'tiny', 'temperature': 0, 'max_tokens': 8, 'logprobs': True}
  return client.chat.completions.create(messages=messages, **fixed, extra_body=extra, **options)


def said(reply) -> list[bytes]:
  """What was sampled, token by token."""
  return [bytes(entry.bytes) for entry in reply.choices[0].logprobs.content]


async def all_said(url):
  """What a server says to every request in every mode, asked all at once."""
  async with openai.AsyncOpenAI(base_url=url, api_key='secret', max_retries=0, timeout=60) as client:
    asked = [(parts.shown(*request), mode) for request in ASKED for mode in MODES]
    replies = await asyncio.gather(*(ask(client, turns, compression=mode) for turns, mode in asked))
    return [(said(reply), reply.usage.prompt_tokens) for reply in replies]


@pytest.mark.parametrize('dtype', ['float32', pytest.param('bfloat16', marks=pytest.mark.slow)])
def test_coupled_and_decoupled_in_one_process_and_over_a_socket_say_the_same(dtype):
  results = {}
  for kind in ('coupled', 'separate', 'socket'):
    with parts.serving(kind, dtype) as url:
      results[kind] = asyncio.run(all_said(url))
  assert results['separate'] == results['coupled'] and results['socket'] == results['coupled']
  lengths = [length for _, length in results['coupled']]
  assert len({*lengths[-4:]}) == 3  # off, some, all: 'absolute' compresses everything under this rule
  assert len({tuple(tokens) for tokens, _ in results['coupled']}) > 4


@pytest.mark.slow
def test_the_server_says_what_chat_says(client):
  config, params = parts.model()
  reply = ask(client, parts.shown('What?', 0, 2), compression='auto')
  messages = [{'role': 'user', 'content': [{'type': 'image'}, {'type': 'image'}, {'type': 'text', 'text': 'What?'}]}]
  shown = [tiny.IMAGES[0], tiny.IMAGES[2]]
  want = internvl.chat(params, config, parts.processor(), messages, images=shown, max_new_tokens=8, compression='auto')
  assert reply.choices[0].message.content == want


def test_usage_says_what_compression_saves(client):
  reply = ask(client, parts.shown('What?', 0, 1), compression='all', tile_details=True)
  seen = reply.usage.model_dump()['prompt_tokens_details']
  full = ask(client, parts.shown('What?', 0, 1), compression='off').usage
  assert full.prompt_tokens - reply.usage.prompt_tokens == seen['image_tokens_saved'] == 3 * seen['image_tokens']
  assert sum(len(image['tiles']) for image in seen['images']) == seen['tiles']
  assert [image['grid'] for image in seen['images']] == [[2, 1], [2, 1]]
  assert {tile['tokens'] for image in seen['images'] for tile in image['tiles']} == {1}
  routed = ask(client, parts.shown('What?', 0, 1), compression='auto', tile_details=True).usage.model_dump()
  tiles = [tile for image in routed['prompt_tokens_details']['images'] for tile in image['tiles']]
  assert {tile['compressed'] for tile in tiles} == {True, False} and all(0 <= tile['score'] <= 1 for tile in tiles)


def test_frames_of_a_video_and_an_earlier_call(client):
  frames = [parts.data_url(image, 'JPEG') for image in tiny.IMAGES[:3]]
  video = [{'role': 'user', 'content': [{'type': 'video', 'video': frames}, {'type': 'text', 'text': 'What?'}]}]
  assert ask(client, video).usage.model_dump()['prompt_tokens_details']['tiles'] == 3
  call = {'id': 'a', 'type': 'function', 'function': {'name': 'look', 'arguments': '{"at": 1}'}}
  tool = {'type': 'function', 'function': {'name': 'look'}}
  turns = [
    *parts.shown('What?', 0),
    {'role': 'assistant', 'content': None, 'tool_calls': [call]},
    {'role': 'tool', 'tool_call_id': 'a', 'content': 'a digit'},
  ]
  assert ask(client, turns, tools=[tool]).usage.prompt_tokens > ask(client, turns).usage.prompt_tokens + 200


def part(**fields):
  return [{'role': 'user', 'content': [{'type': 'text', 'text': 'x'}, fields]}]


def image(url):
  return part(type='image_url', image_url={'url': url})


@pytest.mark.parametrize(
  'messages, extra, says',
  [
    (image('https://example.com/a.png'), {}, 'expected a data URL: nothing is fetched'),
    (image('/etc/passwd'), {}, 'expected a data URL'),
    (image('file:///etc/passwd'), {}, 'expected a data URL'),
    (image('data:image/png;base64,!!'), {}, 'not base64'),
    (image('data:image/png;base64,AAAA'), {}, 'not a readable image'),
    (image(parts.data_url(np.zeros((101, 100, 3), np.uint8))), {}, '100×101 pixels; expected at most 10000'),
    (image(parts.data_url(np.zeros((1, 300, 3), np.uint8))), {}, 'aspect ratio'),
    (part(type='video', video=['data:,'] * 5), {}, 'video with 1 to 4 frames'),
    (part(type='video', video='clip.mp4'), {}, 'expected text, image_url, or video'),
    (part(type='audio'), {}, 'expected text, image_url, or video'),
    (parts.shown('x', *[0] * 7), {}, '7 images; expected at most 6'),
    (parts.shown('x', 0), {'max_tiles': 5}, 'max_tiles=5: expected a whole number from 1 to 4'),
    (parts.shown('x', 0), {'compression': 'some'}, "compression='some'"),
    ([{'role': 'user', 'content': 'a'}, {'role': 'assistant', 'content': 'b'}], {}, 'ends with the assistant'),
  ],
)
def test_what_cannot_be_shown_is_refused(client, messages, extra, says):
  with pytest.raises(openai.BadRequestError) as refused:
    ask(client, messages, **extra)
  assert says in str(refused.value)


def test_no_image_token_is_forged(client):
  with pytest.raises(openai.BadRequestError, match='has an image token'):
    client.completions.create(model='tiny', prompt='<img><IMG_CONTEXT></img>')
  text = [{'role': 'user', 'content': '<image> <IMG_CONTEXT>'}]
  assert ask(client, text).usage.model_dump()['prompt_tokens_details'] is None


def test_tiles_survive_the_wire_exactly():
  x = parts.processor()([{'role': 'user', 'content': '<image>'}], [tiny.IMAGES[0]])
  there = wire.tiles_message(7, tiles.denormalize(x.pixels, *parts.NORMALISATION), 'auto')
  message = wire.Message(*wire.HEADER.unpack(there[: wire.HEADER.size])[1:5], there[wire.HEADER.size :])
  pixels, mode = wire.tiles_of(message, 16)
  np.testing.assert_array_equal(tiles.normalize(pixels, *parts.NORMALISATION), x.pixels)
  assert mode == 'auto' and len(there) == 28 + pixels.size


def inputs(*numbers):
  turns = [{'role': 'user', 'content': '<image>' * len(numbers)}]
  return parts.processor()(turns, [tiny.IMAGES[n] for n in numbers])


@pytest.mark.slow
def test_bytes_on_the_wire_are_the_kept_tokens_and_a_small_header():
  config, _ = parts.model('bfloat16')

  async def seen(place, mode):
    before = place.received
    found = await asyncio.wait_for(place.see(inputs(0, 1), mode), 30)
    kept = found.routing.full - found.routing.saved
    return place.received - before, kept, len(found.routing.compressed)

  async def all_modes():
    with parts.placed('socket', 'bfloat16') as place:
      for mode in ('off', 'auto', 'all'):
        received, kept, tiles = await seen(place, mode)
        assert received == 28 + 6 * tiles + kept * config.language.width * 2
      await place.close()

  asyncio.run(all_modes())


def test_requests_survive_the_death_of_the_vision_service():
  config, _ = parts.model()

  async def through_a_death():
    with Encoder(parts.images(), config) as encoder:
      with parts.listening(parts.vision_server(encoder)) as port:
        place = parts.remote(port)
        first = await asyncio.wait_for(place.see(inputs(0), 'off'), 30)
      waiting = [asyncio.ensure_future(place.see(inputs(n), 'off')) for n in range(4)]
      await asyncio.sleep(0.2)  # the service is dead, and the requests are queued
      assert not any(task.done() for task in waiting)
      with parts.listening(parts.vision_server(encoder), port):
        found = await asyncio.wait_for(asyncio.gather(*waiting), 30)
      assert place.connections == 2
      np.testing.assert_array_equal(found[0].media[0], first.media[0])
      await place.close()

  asyncio.run(through_a_death())


@pytest.mark.slow
@pytest.mark.parametrize('key, dtype', [(b'other', 'float32'), (parts.KEY, 'bfloat16')])
def test_a_service_with_another_key_or_model_is_not_believed(key, dtype):
  config, _ = parts.model()

  async def refused():
    with Encoder(parts.images(), config) as encoder, parts.listening(parts.vision_server(encoder)) as port:
      place = parts.remote(port, dtype, key)
      with pytest.raises(TimeoutError):
        await asyncio.wait_for(place.see(inputs(0), 'off'), 0.5)
      assert place.connections == 0 and encoder.counts['requests'] == 0
      await place.close()

  asyncio.run(refused())


def test_tiles_of_several_requests_are_encoded_together():
  config, _ = parts.model()
  encoder = Encoder(parts.images(), config)
  futures = [encoder.submit(inputs(n).pixels, 'auto' if n % 2 else 'off') for n in range(4)]
  encoder.submit(inputs(0).pixels, 'off').cancel()
  with encoder:
    encoded = [future.result(30) for future in futures]
  assert encoder.counts['requests'] == 4 and encoder.counts['rounds'] < 4
  alone = parts.images().features(list(inputs(0).pixels), [config.tokens_per_tile] * 3)
  np.testing.assert_allclose(encoded[0].features[1], alone[1], atol=1e-5)


def test_a_round_that_fails_is_heard_and_the_next_one_works(monkeypatch):
  config, _ = parts.model()
  with Encoder(parts.images(), config) as encoder:
    with pytest.raises(ValueError, match='tiles of'):
      encoder.submit(np.zeros((1, 3, 3, 3), np.float32), 'off')
    with monkeypatch.context() as broken, pytest.raises(Failed, match='device lost'):
      broken.setattr(parts.images(), 'features', lambda *_: _lost())
      encoder.submit(inputs(0).pixels, 'off').result(30)
    assert len(encoder.submit(inputs(0).pixels, 'off').result(30).features) == 3


def _lost():
  raise RuntimeError('device lost')


def test_the_service_reads_no_more_than_it_may_hold():
  """A slow encoder: what is not answered yet is bounded, and the rest waits in the client."""
  config, _ = parts.model()
  encoder = Encoder(parts.images(), config)  # its thread is not started yet

  async def pressed():
    with parts.listening(parts.vision_server(encoder, pending=6)) as port:
      place = parts.remote(port)
      waiting = [asyncio.ensure_future(place.see(inputs(0), 'off')) for _ in range(6)]
      await asyncio.sleep(0.5)
      assert encoder._jobs.qsize() == 2  # of 3 tiles each
      with encoder:
        await asyncio.wait_for(asyncio.gather(*waiting), 30)
        await place.close()

  asyncio.run(pressed())


PAGE_TEST = r"""
const page = await (await fetch(URL_OF_PAGE)).text();
const script = page.match(/<script>([\s\S]*)<\/script>/)[1].replace(/\nbegin\(\);\n/, '\n');
const plain = globalThis.fetch;
globalThis.fetch = (path, options) => plain(new globalThis.URL(path, URL_OF_PAGE), options);
globalThis.document = {getElementById: (id) => ({value: id === 'token' ? 'secret' : ''})};
const made = new Function(`${script}; return {body, ask, figures, places, headers};`)();
const messages = MESSAGES;
const asked = made.body('tiny', messages, {temperature: 0, limit: 8, compression: 'all'});
const texts = [];
const reply = await made.ask(asked, undefined, (text) => texts.push(text));
const images = reply.usage.prompt_tokens_details.images;
console.log(JSON.stringify({text: reply.text, last: texts.at(-1) ?? '', figures: made.figures(reply),
  places: made.places(images[0]), first: reply.first}));
try { await made.ask({...asked, model: 'x'}, undefined, () => {}); } catch (error) { console.log(error.message); }
"""


def test_the_script_of_the_page_chats_and_knows_where_tiles_are(coupled, client, tmp_path):
  node = shutil.which('node')
  if node is None:
    pytest.skip('no node to run the script of the page')
  messages = parts.shown('What?', 0)
  address = json.dumps(coupled.removesuffix('v1'))
  text = PAGE_TEST.replace('URL_OF_PAGE', address).replace('MESSAGES', json.dumps(messages))
  path = tmp_path / 'page.mjs'
  path.write_text(text)
  out = subprocess.run([node, path], capture_output=True, text=True, timeout=60, check=True).stdout.splitlines()
  told = json.loads(out[0])
  assert told['text'] == told['last'] == ask(client, messages, compression='all').choices[0].message.content
  assert '3 tiles, 3 of 12 image tokens, 75 % saved' in told['figures'] and 'first token after' in told['figures']
  assert told['places'] == [[0, 0], [1, 0], [2.1, 0]]
  assert out[1].startswith("404: model='x'")


def test_the_page_is_open_and_needs_nothing_of_other_servers(coupled):
  page = httpx.get(coupled.removesuffix('v1'))
  assert page.status_code == 200 and "default-src 'none'" in page.headers['content-security-policy']
  assert 'http' not in page.text
