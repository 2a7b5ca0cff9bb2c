"""Host time of an engine's step, the device replaced by a fake one that answers at once.

  python -m bench.perf.engine_host [--steps=200 --slots=256 --page_size=16 --scenario=samples]

CPU time of the thread that steps, without that of the fake device: median, 99th percentile and longest step of each
scenario, and the longest cancellation, against the limit of 15 ms. Exits with status 1 if a 99th percentile exceeds it.
"""

import dataclasses
import sys
import time
from collections.abc import Iterator
from typing import Literal

import numpy as np

from core import decoder
from core.engine import Engine, Request, device
from core.launch import command
from core.launch.fields import field

LIMIT = 0.015  # seconds
HEAD = 1000  # tokens that prompts share; no multiple of a page
LONG = 8192


class FakeDevice:
  """`core.engine.programs.Programs` without a device: random tokens, each slot up to its limit."""

  dtype = np.dtype(np.float32)

  def __init__(self, vocab: int, segment: int):
    self._random = np.random.default_rng(0)
    self._vocab = vocab
    self._segment = segment
    self.seconds = 0.0

  def update(self, params):
    """Nothing."""

  def copy(self, pairs):
    """Nothing."""

  def prefill(self, prompts, features):
    """Nothing."""

  def set_tables(self, slot, allowed, seen):
    """Nothing."""

  def decode(self, plan, slots):
    """Tokens for every slot that wants some."""
    start = time.thread_time()
    shape = len(slots.limit), self._segment
    out = device.Segment(
      tokens=self._random.integers(1, self._vocab, shape),
      logp=np.zeros(shape, np.float32),
      count=np.minimum(slots.limit, self._segment),
      failed=np.zeros(len(slots.limit), bool),
    )
    self.seconds += time.thread_time() - start
    return out


@dataclasses.dataclass(frozen=True)
class Sizes:
  """An engine's sizes."""

  slots: int
  page_size: int
  segment: int
  chunk: int


def queue(r: np.random.Generator) -> Iterator[Request]:
  """10,000 requests with different prompts."""
  for _ in range(10_000):
    prompt = r.integers(1, 1000, r.integers(16, 65)).tolist()
    most = int(r.integers(16, 257))
    yield Request(prompt, most, seed=1)


def head(r: np.random.Generator) -> Iterator[Request]:
  """4,000 requests whose common head ends inside a page."""
  common = r.integers(1, 1000, HEAD).tolist()
  for _ in range(4000):
    own = r.integers(1, 1000, 24).tolist()
    most = int(r.integers(16, 257))
    yield Request([*common, *own], most)


def samples(r: np.random.Generator) -> Iterator[Request]:
  """4,096 samples of one prompt, which all end together."""
  yield Request(r.integers(1, 1000, HEAD).tolist(), 256, n=4096, temperature=1.0)


def long(r: np.random.Generator) -> Iterator[Request]:
  """512 prompts of 8,192 tokens."""
  for _ in range(512):
    yield Request(r.integers(1, 1000, LONG).tolist(), int(r.integers(16, 257)))


def shared_long(r: np.random.Generator) -> Iterator[Request]:
  """1,024 samples of one prompt of 8,192 tokens."""
  yield Request(r.integers(1, 1000, LONG).tolist(), 256, n=1024, temperature=1.0)


SCENARIOS = {f.__name__: f for f in (queue, head, samples, long, shared_long)}


def make(sizes: Sizes, fake: FakeDevice | None = None) -> tuple[Engine, FakeDevice]:
  """An engine on a fake device, with pages for all slots and half as many again for the prefix cache."""
  config = dataclasses.replace(decoder.CONFIGS['tiny'], vocab=1000, max_length=LONG + 512)
  fake = fake or FakeDevice(config.vocab, sizes.segment)
  pages = sizes.slots * (config.max_length // sizes.page_size) * 3 // 2
  return Engine(None, config, pages=pages, programs=fake, **dataclasses.asdict(sizes)), fake


def measure(name: str, sizes: Sizes, steps: int) -> tuple[np.ndarray, float]:
  """(host seconds of each step, of the longest of 100 cancellations)."""
  engine, fake = make(sizes)
  ids = [id for request in SCENARIOS[name](np.random.default_rng(0)) for id in engine.submit(request)]
  seconds = []
  while len(seconds) < steps and not engine.idle:
    before = fake.seconds
    start = time.thread_time()
    engine.step()
    seconds.append(time.thread_time() - start - (fake.seconds - before))
  cancelled = []
  for id in ids[-1:-101:-1]:
    start = time.thread_time()
    try:
      engine.cancel(id)
    except KeyError:
      break
    cancelled.append(time.thread_time() - start)
  return np.array(seconds), max(cancelled, default=0.0)


@dataclasses.dataclass(frozen=True)
class Options:
  """The command line."""

  steps: int = field(200, 'measured steps a scenario')
  slots: int = field(256, 'sequences decoded together')
  page_size: int = field(16, 'tokens of a page')
  segment: int = field(16, 'tokens of a segment')
  chunk: int = field(512, 'prompt tokens of one prefill')
  scenario: Literal['all', 'queue', 'head', 'samples', 'long', 'shared_long'] = field('all', 'only this one')


def work(o: Options) -> int:
  """Measures and prints; 1 if a scenario exceeds the limit."""
  sizes = Sizes(o.slots, o.page_size, o.segment, o.chunk)
  print(f'{sizes}; limit {LIMIT * 1e3:.0f} ms')
  print(f'{"scenario":12} {"median":>8} {"p99":>8} {"longest":>8} {"cancel":>8}   ms')
  slow = 0
  for name in SCENARIOS if o.scenario == 'all' else [o.scenario]:
    seconds, cancel = measure(name, sizes, o.steps)
    shown = np.quantile(seconds, 0.5), np.quantile(seconds, 0.99), seconds.max(), cancel
    slow += shown[1] > LIMIT
    print(f'{name:12} ' + ' '.join(f'{1e3 * x:8.2f}' for x in shown))
  return int(slow > 0)


if __name__ == '__main__':
  sys.exit(command.run(sys.argv, __doc__, Options, work))
