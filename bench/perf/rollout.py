"""Rollouts of uneven length: the segment engine against static batches, ours and tunix's.

  python -m bench.perf.rollout [--lengths=longtail --slots=16 --longest=256] [--peer_python=…/bin/python]

One random Qwen3-shaped model, one list of prompts, each with the number of tokens after which its answer stops. A
static batch (`core.engine.generate.run`; tunix's Sampler) decodes until its longest row stops; the engine refills
slots. CPU seconds on one pinned thread, arms interleaved, the best of the repeats. The engine is timed in steady
state, until its queue is empty. Its tokens are compared with those of `core.engine.generate`. `--peer_python` names the
interpreter of an environment with google-tunix; that arm, whose greedy tokens must equal ours, runs each batch for
exactly as many steps as its longest row needs.
"""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Literal

from bench.perf.measuring.pinned import pin
from core.launch import command
from core.launch.fields import field

# jax is imported by the functions that need it: `pin` must come before its first import.


@dataclasses.dataclass(frozen=True)
class Options:
  """The program's flags."""

  width: int = field(256, 'model width; heads of 64, feed-forward three times the width', low=64)
  layers: int = field(4, 'number of layers', low=1)
  vocab: int = field(2048, 'vocabulary', low=2)
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


def shape(options: Options):
  """The model's config."""
  from core import decoder

  return decoder.Config(
    vocab=options.vocab,
    width=options.width,
    depth=options.layers,
    heads=options.width // 64,
    kv_heads=max(options.width // 128, 1),
    head_dim=64,
    mlp_width=3 * options.width,
    norm_eps=1e-6,
    rope_theta=1e6,
    qk_norm=True,
    max_length=options.prompt + options.longest,
  )


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


def rollout(engine, prompts, lengths) -> tuple[list[list[int]], float, int]:
  """(tokens, CPU seconds and tokens of the steady state)."""
  from core.engine import Request

  for i, (prompt, length) in enumerate(zip(prompts, lengths)):
    engine.submit(Request(prompt, int(length), temperature=1.0, seed=i))
  before = engine.stats.decoded
  start = time.process_time()
  done = []
  while len(engine.scheduler.queue) or not done:
    done += engine.step()
  seconds = time.process_time() - start
  tokens = engine.stats.decoded - before
  done += engine.run()
  engine.scheduler.cache.clear()  # the next repeat prefills its prompts again
  return [c.tokens.tolist() for c in sorted(done, key=lambda c: c.id)], seconds, tokens


class Peer:
  """tunix in its own process."""

  def __init__(self, options: Options, params, config):
    from core import decoder

    self.options = options
    self._folder = tempfile.TemporaryDirectory()
    decoder.save(self._folder.name, config, params)
    script = pathlib.Path(__file__).with_name('rollout_peer.py')
    self._process = subprocess.Popen(
      [options.peer_python, script], text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    self._say(
      {
        'folder': self._folder.name,
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
    )

  def _say(self, line):
    self._process.stdin.write(json.dumps(line) + '\n')
    self._process.stdin.flush()

  def __call__(self, prompts, lengths, *, sampled: bool) -> dict:
    slots = self.options.slots
    starts = range(0, len(prompts), slots)
    self._say(
      {
        'batches': [prompts[i : i + slots] for i in starts],
        'sampled': sampled,
        'steps': [int(max(lengths[i : i + slots])) for i in starts],
      }
    )
    return json.loads(self._process.stdout.readline())

  def close(self):
    """Ends the process."""
    self._process.stdin.close()
    self._process.wait()
    self._folder.cleanup()


def agree(peer: Peer, params, config, prompts) -> None:
  """Raises ValueError unless both compute the same greedy tokens."""
  import numpy as np

  from core.engine import generate
  from core.engine.sampling import Sampling

  theirs = peer(prompts[:1] * peer.options.slots, [16], sampled=False)['tokens'][0]
  prompt = np.array([prompts[0]], np.int32)
  state = generate.run(params, config, prompt, np.arange(prompt.shape[1])[None], max_new=16, sampling=Sampling.of(1))
  if theirs != np.asarray(state.tokens)[0, :16].tolist():
    raise ValueError('the peer does not compute the same model: greedy tokens differ')


def measure(options: Options, engine, params, config, prompts, lengths, peer: Peer | None) -> dict[str, list[float]]:
  """Tokens a CPU second of each arm, one figure for each repeat."""
  rates: dict[str, list[float]] = {'engine': [], 'static': [], 'tunix': []}
  for _ in range(options.repeats):
    _, seconds, tokens = rollout(engine, prompts, lengths)
    rates['engine'].append(tokens / seconds)
    start = time.process_time()
    static(options, params, config, prompts, lengths)
    rates['static'].append(lengths.sum() / (time.process_time() - start))
    if peer:
      rates['tunix'].append(lengths.sum() / peer(prompts, lengths, sampled=True)['seconds'])
  return rates


def describe(options: Options, lengths, same: int) -> str:
  """The workload in a line; same: how many rows have the tokens of the plain sampler."""
  import numpy as np

  longest = lengths.reshape(-1, options.slots).max(1)
  return (
    f'width {options.width} x {options.layers} layers, {options.slots} slots, {options.lengths} lengths: mean '
    f'{lengths.mean():.0f}, median {np.median(lengths):.0f}, longest {lengths.max()}; a static batch runs '
    f'{longest.mean() / lengths.mean():.2f}x the mean; rows with the tokens of core.engine.generate: {same} of '
    f'{len(lengths)}; load {os.getloadavg()[0]:.1f}'
  )


def work(options: Options) -> None:
  """Measures the arms and prints tokens a CPU second."""
  pin()
  import jax

  from core import decoder
  from core.engine import Engine, generate

  config = shape(options)
  params = decoder.init(jax.random.key(0), config)
  prompts, lengths = workload(options)
  fast = generate.for_decoding(params)
  pages = 2 * options.slots * -(-config.max_length // options.page_size)
  sizes = {'slots': options.slots, 'page_size': options.page_size, 'segment': options.segment}
  engine = Engine(params, config, pages=pages, **sizes)
  peer = None
  if options.peer_python:
    peer = Peer(options, params, config)
  pairs = zip(rollout(engine, prompts, lengths)[0], static(options, fast, config, prompts, lengths))
  same = sum(a == b for a, b in pairs)
  if peer:
    agree(peer, params, config, prompts)
    peer(prompts, lengths, sampled=True)  # compiles
  rates = measure(options, engine, fast, config, prompts, lengths, peer)
  if peer:
    peer.close()
  print(describe(options, lengths, same))
  best = {name: max(r) for name, r in rates.items() if r}
  for name, rate in best.items():
    every = ', '.join(f'{r:.0f}' for r in rates[name])
    print(f'{name}: {rate:.0f} tokens a CPU second (all: {every}); engine {best["engine"] / rate:.2f}x')


def main(argv: Sequence[str]) -> int:
  """Runs the program; returns its exit status."""
  return command.run(argv, __doc__, Options, work)


if __name__ == '__main__':
  sys.exit(main(sys.argv))
