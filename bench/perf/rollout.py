"""Rollouts of uneven length: the segment engine against static batches, ours and tunix's.

  python -m bench.perf.rollout [--lengths=longtail --slots=16 --longest=256] [--peer_python=…/bin/python]

One random Qwen3-shaped model, one list of prompts, each with the number of tokens after which its answer stops. A
static batch (`core.engine.generate.run`; tunix's Sampler) decodes until its longest row stops; the engine refills
slots. CPU seconds on one pinned thread, arms interleaved, the best of the repeats. The engine is timed to its last
answer, and until its queue is empty. Its tokens are compared with those of `core.engine.generate`. `--peer_python`
names the interpreter of an environment with google-tunix; that arm, whose greedy tokens must equal ours, runs each
batch for exactly as many steps as its longest row needs.
"""

import collections
import contextlib
import dataclasses
import heapq
import pathlib
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Literal, NamedTuple

from bench.perf.measuring import clock, qwen, report
from bench.perf.measuring.peer import Peer
from bench.perf.measuring.pinned import pin
from core.launch import command
from core.launch.fields import field

# jax is imported by the functions that need it: `pin` must come before its first import.


@dataclasses.dataclass(frozen=True)
class Options(qwen.Shape):
  """The program's flags."""

  slots: int = field(16, 'rows decoded together by every arm', low=1)
  batches: int = field(6, 'requests, in batches of `slots`', low=1)
  prompt: int = field(32, 'longest prompt; lengths are uniform from a half of it', low=2)
  longest: int = field(256, 'longest answer', low=4)
  lengths: Literal['longtail', 'uniform', 'equal'] = field(
    'longtail', 'longtail: lognormal, the longest four times the median; uniform: from a quarter of the longest'
  )
  segment: int = field(16, 'tokens of a segment, between two decisions of the host', low=1)
  page_size: int = field(32, 'tokens of a page', low=1)
  repeats: int = field(3, 'timed runs of each arm', low=1)
  peer_python: str | None = field(None, 'interpreter of an environment with google-tunix')
  json: bool = field(False, 'print JSON')


def workload(options: Options):
  """(prompts, lengths of their answers as an array)."""
  import numpy as np

  r = np.random.default_rng(0)
  n = options.slots * options.batches
  longest = options.longest
  prompts = [
    r.integers(1, options.vocab, r.integers(options.prompt // 2, options.prompt + 1)).tolist() for _ in range(n)
  ]
  drawn = {
    'longtail': longest / 4 * np.exp(0.7 * r.standard_normal(n)),
    'equal': np.full(n, longest),
    'uniform': r.uniform(longest / 4, longest, n),
  }[options.lengths]
  return prompts, np.clip(drawn, 4, longest).astype(int)


def static(options: Options, params, config, prompts, lengths) -> list[list[int]]:
  """Batch by batch, each until its longest answer is done."""
  import numpy as np

  from core import padding
  from core.engine import generate
  from core.engine.sampling import Sampling

  rows = []
  for start in range(0, len(prompts), options.slots):
    part = prompts[start : start + options.slots]
    tokens = padding.batch(part, dtype=np.int32, length=options.prompt, side='left')
    at = padding.positions([len(prompt) for prompt in part], options.prompt, side='left')
    limit = lengths[start : start + options.slots]
    sampling = Sampling.of(len(part), temperature=1.0, seed=start)
    g = generate.prompted(params, config, tokens, at, max_new=limit, sampling=sampling)
    g.advance()
    rows += [row.tolist() for row in g.rows()]
  return rows


class Rollout(NamedTuple):
  """What a rollout of the engine took. steady: (tokens, CPU seconds) until its queue is empty; whole: to its end."""

  rows: list[list[int]]
  steady: tuple[int, float]
  whole: tuple[int, float]


def rollout(engine, prompts, lengths) -> Rollout:
  """All answers of the engine, whose cache of prompts is empty afterwards."""
  from core.engine import Request

  for i, (prompt, length) in enumerate(zip(prompts, lengths)):
    engine.submit(Request(prompt, int(length), temperature=1.0, seed=i))
  before = engine.stats.decoded
  start = time.process_time()

  def so_far() -> tuple[int, float]:
    return engine.stats.decoded - before, time.process_time() - start

  done = []
  while len(engine.scheduler.queue) or not done:
    done += engine.step()
  steady = so_far()
  done += engine.run()
  whole = so_far()
  engine.scheduler.cache.clear()
  rows = [c.tokens.tolist() for c in sorted(done, key=lambda c: c.id)]
  return Rollout(rows, steady, whole)


def tunix(options: Options, folder: str, config) -> Peer:
  """The peer with the weights in `folder`."""
  about = {
    'folder': folder,
    'prompt': options.prompt,
    'cache': options.prompt + options.longest,
    'config': {
      'num_layers': config.depth,
      'vocab_size': config.vocab,
      'embed_dim': config.width,
      'hidden_dim': config.mlp_width,
      'num_heads': config.heads,
      'head_dim': config.head_dim,
      'num_kv_heads': config.kv_heads,
      'rope_theta': int(config.rope_theta),
      'norm_eps': config.norm_eps,
    },
  }
  return Peer(options.peer_python, pathlib.Path(__file__).with_name('rollout_peer.py'), about)


def theirs(options: Options, peer: Peer, prompts, lengths, *, sampled: bool) -> dict:
  """The peer's tokens of the last batch, and its CPU seconds."""
  slots = options.slots
  starts = range(0, len(prompts), slots)
  batches = [prompts[i : i + slots] for i in starts]
  steps = [int(max(lengths[i : i + slots])) for i in starts]
  return peer.ask({'batches': batches, 'sampled': sampled, 'steps': steps})


def agree(options: Options, peer: Peer, params, config, prompts) -> None:
  """Raises ValueError unless both compute the same greedy tokens."""
  import numpy as np

  from core.engine import generate
  from core.engine.sampling import Sampling

  tokens = theirs(options, peer, prompts[:1] * options.slots, [16], sampled=False)['tokens'][0]
  prompt = np.array([prompts[0]], np.int32)
  state = generate.run(params, config, prompt, np.arange(prompt.shape[1])[None], max_new=16, sampling=Sampling.of(1))
  if tokens != np.asarray(state.tokens)[0, :16].tolist():
    raise ValueError('the peer does not compute the same model: greedy tokens differ')


def measure(options: Options, engine, params, config, prompts, lengths, peer: Peer | None) -> dict[str, float]:
  """Tokens a CPU second of each arm, the best of the repeats."""
  rates: dict[str, list[float]] = collections.defaultdict(list)
  for _ in range(options.repeats):
    made = rollout(engine, prompts, lengths)
    for name, (tokens, seconds) in (('until its queue is empty', made.steady), ('whole', made.whole)):
      rates[f'engine, {name}'].append(tokens / seconds)
    seconds, _ = clock.timed(lambda: static(options, params, config, prompts, lengths))
    rates['static'].append(lengths.sum() / seconds)
    if peer:
      rates['tunix'].append(lengths.sum() / theirs(options, peer, prompts, lengths, sampled=True)['seconds'])
  return {name: max(rate) for name, rate in rates.items()}


def fewest_steps(options: Options, lengths) -> int:
  """Decoding steps of an engine that refills slots in order, at once, after whole segments."""
  ends = [0] * options.slots
  for length in lengths:
    segments = -(-int(length) // options.segment)
    heapq.heapreplace(ends, ends[0] + segments * options.segment)
  return max(ends)


def describe(options: Options, lengths, same: int) -> report.Row:
  """The workload; same: how many rows have the tokens of the plain sampler.

  The last figure is the ratio to static batches, if a step costs both the same and nothing else costs anything.
  """
  longest = lengths.reshape(-1, options.slots).max(1)
  return {
    'what': f'{options.lengths} lengths, width {options.width} x {options.layers}, {options.slots} slots',
    'mean tokens': float(lengths.mean()),
    'longest tokens': int(lengths.max()),
    'steps of a static batch to the mean': float(longest.mean() / lengths.mean()),
    'rows with the tokens of core.engine.generate': same,
    'of': len(lengths),
    'engine, at most, times as many as static': float(longest.sum() / fewest_steps(options, lengths)),
  }


def work(options: Options) -> None:
  """Measures the arms and prints tokens a CPU second."""
  pin()
  import jax

  from core import decoder
  from core.engine import Engine, generate

  config = qwen.ours(options, max_length=options.prompt + options.longest)
  params = decoder.init(jax.random.key(0), config)
  prompts, lengths = workload(options)
  fast = generate.for_decoding(params)
  pages = 2 * options.slots * -(-config.max_length // options.page_size)
  sizes = {'slots': options.slots, 'page_size': options.page_size, 'segment': options.segment}
  engine = Engine(params, config, pages=pages, **sizes)
  rows = zip(rollout(engine, prompts, lengths).rows, static(options, fast, config, prompts, lengths))
  same = sum(a == b for a, b in rows)
  with contextlib.ExitStack() as stack:
    peer = None
    if options.peer_python:
      folder = stack.enter_context(tempfile.TemporaryDirectory())
      decoder.save(folder, config, params)
      peer = tunix(options, folder, config)
      stack.callback(peer.close)
      agree(options, peer, params, config, prompts)
      theirs(options, peer, prompts, lengths, sampled=True)  # compiles
    rates = measure(options, engine, fast, config, prompts, lengths, peer)
  report.show(report.machine(), as_json=options.json)
  report.show(describe(options, lengths, same), as_json=options.json)
  whole = rates['engine, whole']
  for name, rate in rates.items():
    row = {'what': name, 'tokens a CPU second': float(rate), 'engine, whole, times as many': float(whole / rate)}
    report.show(row, as_json=options.json)


def main(argv: Sequence[str]) -> int:
  """Runs the program; returns its exit status."""
  return command.run(argv, __doc__, Options, work)


if __name__ == '__main__':
  sys.exit(main(sys.argv))
