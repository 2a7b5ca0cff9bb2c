"""A language model over bytes that says what a script tells it, behind a real engine and a real server."""

import asyncio
import contextlib
import dataclasses
import functools
import threading
import time

import numpy as np

from core import decoder
from core.engine import Engine, device
from core.files.generation import Generation
from core.files.tokenizers import byte_tokenizer
from core.serving import server
from core.serving.admission import Capacity
from core.serving.chat import http
from core.serving.chat.model import TextModel, Words
from core.serving.chat.program import text_of
from core.serving.chat.service import Service
from core.serving.chat.worker import Worker

BLANK, START, END = '<|endoftext|>', '<|im_start|>', '<|im_end|>'
# ChatML with tools and calls, as Qwen's template writes them.
TEMPLATE = (
  "{% if tools %}{{ '<|im_start|>system\n' }}{% for t in tools %}{{ t | tojson }}{% endfor %}{{ '<|im_end|>\n' }}"
  "{% endif %}{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content }}"
  "{% for c in m.tool_calls or [] %}{{ '<tool_call>\n' }}{{ c.function | tojson }}{{ '\n</tool_call>' }}{% endfor %}"
  "{{ '<|im_end|>\n' }}{% endfor %}{{ '<|im_start|>assistant\n' }}"
)
VOCAB = 260
BOUNDS = server.Bounds()


@functools.cache
def tokenizer():
  made = byte_tokenizer([BLANK, START, END], eos=END, pad=BLANK)
  made.chat_template = TEMPLATE
  return made


STOP = 258


class Scripted:
  """`core.engine.programs.Programs` without a device.

  script: the prompt's text and the sample's number -> what is said, as text or bytes; an end token follows. pause:
  seconds of a segment. A token that a mask forbids is replaced by the lowest that it allows.
  """

  dtype = np.dtype(np.float32)

  def __init__(self, script, segment: int, pause: float = 0.0):
    self.script, self._segment, self.pause = script, segment, pause
    self.engine, self.masks = None, {}

  def update(self, params):
    pass

  def copy(self, pairs):
    pass

  def prefill(self, prompts, features):
    pass

  def set_tables(self, slot, allowed, seen):
    self.masks[slot] = allowed

  def decode(self, plan, slots):
    time.sleep(self.pause)
    shape = len(slots.limit), self._segment
    out = device.Segment(np.zeros(shape, np.int32), np.zeros(shape, np.float32), np.zeros(shape[0], np.int32), None)
    out = dataclasses.replace(out, failed=np.zeros(shape[0], bool))
    for slot in np.flatnonzero(slots.limit):
      tokens = self._said(slot)[: min(slots.limit[slot], self._segment)]
      ends = [i + 1 for i, token in enumerate(tokens) if token in slots.stops[slot]]
      tokens = tokens[: ends[0]] if ends else tokens
      out.tokens[slot, : len(tokens)] = tokens
      out.logp[slot, : len(tokens)] = -0.5
      out.count[slot] = len(tokens)
    # The next token of the alphabet is as likely as half of the chosen one.
    top = np.stack([out.tokens, (out.tokens + 1) % 256], -1)
    logp = np.broadcast_to(np.float32([-0.5, -0.5 - np.log(2)]), top.shape)
    return dataclasses.replace(out, top=(top, logp))

  def _said(self, slot):
    if self.engine is None:  # while it is compiled
      return [STOP]
    sample = self.engine.scheduler.slots[slot]
    prompt = bytes(token for token in sample.request.prompt if token < 256).decode('utf-8', 'replace')
    said = self.script(prompt, sample.sample)
    said = [*(said.encode() if isinstance(said, str) else said), STOP]
    rest = said[self.engine.scheduler.rows.count(sample) :] + [STOP] * self._segment
    allowed = self.masks.get(slot, np.ones(VOCAB, bool))
    return [token if allowed[token] else int(np.flatnonzero(allowed)[0]) for token in rest[: self._segment]]


def engine(script, *, slots=4, segment=3, pause=0.0, pages=400, context=2048):
  """An idle engine that says the script."""
  config = dataclasses.replace(decoder.CONFIGS['tiny'], vocab=VOCAB, max_length=context)
  programs = Scripted(script, segment, pause)
  sizes = {'slots': slots, 'pages': pages, 'page_size': 8, 'segment': segment}
  made = Engine(None, config, **sizes, programs=programs, text=text_of(tokenizer()), top_logprobs=2)
  programs.engine = made
  return made


@contextlib.contextmanager
def service(made: Engine, *, places=16, seconds=60.0):
  """A service on an engine, while its thread runs."""
  context = made._config.max_length
  words = Words(tokenizer(), vocab=VOCAB, stops=[STOP, 256], tokens=context)
  model = TextModel('tiny', words, Generation(temperature=1.0))
  with Worker(made) as worker:
    yield Service(model, worker, capacity=Capacity(places), seconds=seconds)


@contextlib.contextmanager
def running(app, *, token='secret', bounds=BOUNDS, open_paths=()):
  """The address of an application behind its guards, on a real socket, up to /v1."""
  sock = server.listen('127.0.0.1', 0)
  guarded = server.guarded(app, token=token, hosts=['127.0.0.1'], bounds=bounds, open_paths=open_paths)
  with in_thread(server.serve(guarded, sock, bounds)), sock:
    yield f'http://127.0.0.1:{sock.getsockname()[1]}/v1'


@contextlib.contextmanager
def in_thread(work):
  """Runs a coroutine in a loop of its own until the context ends, which cancels it and all that it began."""
  loop = asyncio.new_event_loop()
  task = loop.create_task(work)
  thread = threading.Thread(target=_run, args=(loop, task), daemon=True)
  thread.start()
  try:
    yield
  finally:
    loop.call_soon_threadsafe(task.cancel)
    thread.join()


def _run(loop, task):
  asyncio.set_event_loop(loop)
  with contextlib.suppress(asyncio.CancelledError):
    loop.run_until_complete(task)
  rest = asyncio.all_tasks(loop)
  for other in rest:
    other.cancel()
  loop.run_until_complete(asyncio.gather(*rest, return_exceptions=True))
  loop.close()


@contextlib.contextmanager
def serving(script, *, places=16, seconds=60.0, token='secret', bounds=BOUNDS, **options):
  """(address, service) of a server that says the script."""
  with contextlib.ExitStack() as stack:
    made = stack.enter_context(service(engine(script, **options), places=places, seconds=seconds))
    yield stack.enter_context(running(http.application(made), token=token, bounds=bounds)), made
