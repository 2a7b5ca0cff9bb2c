"""`python -m internvl.serve` and `internvl.serve_vision` as processes: a folder of weights, two hosts, SIGTERM."""

import os
import re
import signal
import subprocess
import sys

import openai
import pytest

import internvl
from tests.internvl import serving_parts as parts

KEYS = {'ESPALIER_API_KEY': 'secret', 'ESPALIER_VISION_KEY': 'shared'}


def start(program: str, folder, ready: str, *flags: str):
  """(process, what the pattern `ready` found in its output)."""
  command = [sys.executable, '-m', program, f'--model={folder}', '--port=0', *flags]
  process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, **KEYS})
  for line in process.stdout:
    if found := re.search(ready, line):
      return process, found[1]
  raise AssertionError(f'{program} ended before it was ready')


@pytest.mark.slow
def test_two_processes_serve_a_folder(tmp_path):
  config, params = parts.model()
  folder = tmp_path / 'model'
  internvl.save(folder, config, params, layout='A')
  parts.processor().save(folder)
  started = []
  try:
    vision, port = start('internvl.serve_vision', folder, r'vision service on [\d.]+:(\d+)')
    started.append(vision)
    sizes = ['--engine.slots=4', '--engine.pages=200', '--engine.segment=3', '--engine.chunk=64']
    flags = [*sizes, f'--vision=127.0.0.1:{port}']
    server, url = start('internvl.serve', folder, r'listening on (http://[\d.:]+)/#secret', *flags)
    started.append(server)
    with openai.OpenAI(base_url=f'{url}/v1', api_key='secret', timeout=60, max_retries=0) as client:
      asked = {'model': 'model', 'temperature': 0, 'max_tokens': 8, 'extra_body': {'compression': 'all'}}
      reply = client.chat.completions.create(messages=parts.shown('What?', 0, 1), **asked)
    assert reply.usage.model_dump()['prompt_tokens_details']['image_tokens_saved'] == 18
    for process in started:
      process.send_signal(signal.SIGTERM)
    assert [process.wait(30) for process in started] == [0, 0]
  finally:
    for process in started:
      process.kill()
      process.wait()
