"""The official `openai` client against the speech server, on a real socket; the device is a ledger."""

import asyncio
import io

import numpy as np
import openai
import pytest
import soundfile

from tests.vibevoice import tiny
from tests.vibevoice.ledger import SPEECH
from tests.vibevoice.serving_parts import Gated, listening, service

FRAME = 2 * tiny.HOP  # bytes
ASKED = {'model': 'tiny', 'input': 'Hello.', 'voice': 'ann'}


def run(rows: Gated, ask):
  """What `ask(client)` returns."""

  async def connected():
    async with listening(made) as port:
      options = {'base_url': f'http://127.0.0.1:{port}/v1', 'api_key': 'none', 'max_retries': 0, 'timeout': 30}
      async with openai.AsyncOpenAI(**options) as client:
        return await ask(client)

  with service(rows) as made:
    return asyncio.run(connected())


def test_speech_is_a_wav_file_and_the_model_is_listed():
  async def ask(client):
    listed = await client.models.list()
    return [model.id for model in listed.data], (await client.audio.speech.create(**ASKED)).content

  rows = Gated()
  rows.permits.release(SPEECH)
  names, data = run(rows, ask)
  samples, rate = soundfile.read(io.BytesIO(data))
  assert names == ['tiny'] and rate == 24_000
  np.testing.assert_allclose(samples, np.full(SPEECH * tiny.HOP, 0.5), atol=1e-4)


def test_the_first_frame_arrives_before_the_second_is_computed():
  rows = Gated()

  async def ask(client):
    speech = client.audio.speech.with_streaming_response.create(**ASKED, response_format='pcm')
    rows.permits.release()
    async with speech as response:
      pieces = response.iter_bytes()
      first = await anext(pieces)
      steps = rows.steps
      rows.permits.release(SPEECH)
      rest = [piece async for piece in pieces]
      return response.headers['content-type'], len(first), steps, sum(map(len, rest))

  assert run(rows, ask) == ('audio/pcm', FRAME, 1, (SPEECH - 1) * FRAME)


def test_refusals_are_the_errors_of_the_client():
  async def ask(client):
    with pytest.raises(openai.BadRequestError, match="voice='eve': unknown"):
      await client.audio.speech.create(**ASKED | {'voice': 'eve'})
    with pytest.raises(openai.BadRequestError, match="response_format='mp3'"):
      await client.audio.speech.create(**ASKED, response_format='mp3')
    with pytest.raises(openai.BadRequestError, match='speed=2'):
      await client.audio.speech.create(**ASKED, speed=2)

  rows = Gated()
  run(rows, ask)
  assert rows.steps == 0
