"""`python -m core.serve` as a process: a folder of weights, a stream, and SIGTERM in the middle of it."""

import os
import re
import signal
import subprocess
import sys

import jax
import openai
import pytest

from core import decoder
from tests.core.serving.chat import scripted


@pytest.fixture
def folder(tmp_path):
  config = decoder.CONFIGS['tiny']
  decoder.save(tmp_path / 'model', config, decoder.init(jax.random.key(0), config))
  scripted.tokenizer().save_pretrained(tmp_path / 'model')
  return tmp_path / 'model'


def start(folder, *flags):
  """(process, address) of a server that is ready."""
  sizes = ['--engine.slots=4', '--engine.pages=200', '--engine.segment=2', '--engine.chunk=16']
  command = [sys.executable, '-m', 'core.serve', f'--model={folder}', '--port=0', *sizes, *flags]
  environment = {**os.environ, 'ESPALIER_API_KEY': 'secret'}
  process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
  for line in process.stdout:
    if found := re.search(r'listening on (http://[\d.:]+)/#secret', line):
      return process, found[1] + '/v1'
  raise AssertionError('the server ended before it listened')


@pytest.mark.slow
def test_a_folder_is_served_and_sigterm_lets_a_stream_end(folder):
  process, url = start(folder)
  try:
    with openai.OpenAI(base_url=url, api_key='secret', timeout=60, max_retries=0) as client:
      asked = {'model': 'model', 'messages': [{'role': 'user', 'content': 'hi'}], 'seed': 3, 'max_tokens': 60}
      whole = client.chat.completions.create(**asked)
      stream = iter(client.chat.completions.create(**asked, stream=True))
      chunks = [next(stream)]
      process.send_signal(signal.SIGTERM)
      chunks += stream
    assert ''.join(c.choices[0].delta.content or '' for c in chunks) == whole.choices[0].message.content
    assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason
    assert process.wait(30) == 0
  finally:
    process.kill()
    process.wait()
