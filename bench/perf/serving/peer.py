"""`core.serve` against `transformers` behind the simplest server, on the same random weights in the same folder.

Both answer the same text completions of token ids, greedily: a closed loop with `in_flight` requests of different
lengths. Three servers, each a process of its own: `core.serve`, and `bench.perf.serving.simple_server` with one request
at a time and with static batches of what waits. Requests a second by the clock, and by the processor time of the server
alone, which other work on the machine changes less.
"""

import asyncio
import contextlib
import dataclasses
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any

import httpx
import numpy as np

from bench.perf.measuring import qwen
from bench.perf.serving.options import Transformers
from core.files.tokenizers import byte_tokenizer

KEY = 'bench'
END = '<|endoftext|>'
NAME = 'model'
THREADS = {'OMP_NUM_THREADS': '1', 'MKL_NUM_THREADS': '1'}


@dataclasses.dataclass(frozen=True)
class Figures:
  """Requests a second by the clock and by the server's processor time, and what was said."""

  clock: float
  processor: float
  texts: list[str]


def run(options: Transformers) -> None:
  """Measures the three servers and prints them."""
  print(
    f'width {options.width} x {options.layers} layers, {options.in_flight} in flight, load {os.getloadavg()[0]:.1f}'
  )
  with tempfile.TemporaryDirectory() as parent:
    folder = pathlib.Path(parent, NAME)
    _save(options, folder)
    ours = measure(options, _own(options, folder))
    alone = measure(options, _simple(folder, 1))
    batched = measure(options, _simple(folder, options.in_flight))
  _print('core.serve', ours, ours)
  _print('transformers, one request at a time', alone, ours)
  _print(f'transformers, static batches of {options.in_flight}', batched, ours)


def _print(name: str, found: Figures, ours: Figures) -> None:
  same = sum(a == b for a, b in zip(found.texts, ours.texts))
  ratios = f'{ours.clock / found.clock:.2f}x and {ours.processor / found.processor:.2f}x as many'
  says = ''
  if found is not ours:
    says = f'; core.serve: {ratios}; {same} of {len(ours.texts)} texts the same'
  print(f'{name}: {found.clock:.2f} requests/s, {found.processor:.2f} a processor second{says}', flush=True)


def _save(options: Transformers, folder: pathlib.Path) -> None:
  """Random weights and a tokenizer over bytes, as a published model has them."""
  tokenizer = byte_tokenizer([END], eos=END, pad=END)
  shape = qwen.Shape('qwen3', width=options.width, layers=options.layers, vocab=len(tokenizer))
  qwen.reference(shape).save_pretrained(folder)
  tokenizer.save_pretrained(folder)


def _own(options: Transformers, folder: pathlib.Path) -> list[str]:
  pages = 4 * options.in_flight * (options.prompt + options.tokens) // 16
  sizes = [f'--engine.slots={options.in_flight}', f'--engine.pages={pages}', '--dtype=float32']
  return [sys.executable, '-m', 'core.serve', f'--model={folder}', '--port=0', *sizes]


def _simple(folder: pathlib.Path, batch: int) -> list[str]:
  return [sys.executable, '-m', 'bench.perf.serving.simple_server', str(folder), str(batch)]


def measure(options: Transformers, command: Sequence[str]) -> Figures:
  """Starts a server and asks it."""
  with _started(command) as (process, address):
    asyncio.run(ask(options, address, _bodies(options, seed=1)[: options.in_flight]))  # first calls
    before = _processor_seconds(process.pid)
    start = time.monotonic()
    texts = asyncio.run(ask(options, address, _bodies(options, seed=0)))
    seconds = time.monotonic() - start
    used = _processor_seconds(process.pid) - before
  return Figures(len(texts) / seconds, len(texts) / used, texts)


@contextlib.contextmanager
def _started(command: Sequence[str]) -> Iterator[tuple[subprocess.Popen, str]]:
  """(process, address) of a server that listens. Raises RuntimeError if it ends before."""
  single = os.environ.get('XLA_FLAGS', '') + ' --xla_cpu_multi_thread_eigen=false'
  environment = {**os.environ, **THREADS, 'XLA_FLAGS': single, 'ESPALIER_API_KEY': KEY}
  process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
  try:
    for line in process.stdout:
      if found := re.search(r'listening on (http://[\d.:]+)', line):
        yield process, found[1]
        return
    raise RuntimeError(f'{command}: ended before it listened')
  finally:
    process.kill()
    process.wait()


def _processor_seconds(pid: int) -> float:
  """Of all threads of a process, user and system."""
  fields = pathlib.Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()
  return (int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK')


def _bodies(options: Transformers, *, seed: int) -> list[dict[str, Any]]:
  """Requests of different lengths."""
  random = np.random.default_rng(seed)
  draw = lambda most: random.integers(most // 4, most + 1, options.requests).tolist()
  return [
    {'model': NAME, 'prompt': random.integers(0, 256, length).tolist(), 'max_tokens': tokens, 'temperature': 0}
    for length, tokens in zip(draw(options.prompt), draw(options.tokens))
  ]


async def ask(options: Transformers, address: str, bodies: Sequence[dict]) -> list[str]:
  """What a server answers in a closed loop."""
  texts = [''] * len(bodies)
  left = iter(enumerate(bodies))
  headers = {'Authorization': f'Bearer {KEY}'}
  async with httpx.AsyncClient(base_url=address, headers=headers, timeout=600.0) as client:

    async def work() -> None:
      for index, body in left:
        response = await client.post('/v1/completions', json=body)
        texts[index] = response.raise_for_status().json()['choices'][0]['text']

    await asyncio.gather(*(work() for _ in range(options.in_flight)))
  return texts
