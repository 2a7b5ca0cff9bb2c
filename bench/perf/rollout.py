"""Rollouts of uneven length: the segment engine against static batches, ours and tunix's.

  python -m bench.perf.rollout [--lengths=longtail --slots=16 --longest=256] [--peer_python=…/bin/python]

One random Qwen3-shaped model, one list of prompts, each with the number of tokens after which its answer stops. A
static batch (`core.engine.sample.generate`; tunix's Sampler) decodes until its longest row stops; the engine refills
slots. CPU seconds on one pinned thread, arms interleaved, the best of the repeats. The engine is timed in steady
state, until its queue is empty. Its tokens are compared with those of `core.engine.sample`. `--peer_python` names the
interpreter of an environment with google-tunix; that arm, whose greedy tokens must equal ours, runs each batch for
exactly as many steps as its longest row needs.
"""

# ruff: noqa: E402 -- the settings above the imports must precede the first import of jax.
import os

os.environ['XLA_FLAGS'] = os.environ.get('XLA_FLAGS', '') + ' --xla_cpu_multi_thread_eigen=false'
os.environ['OMP_NUM_THREADS'] = '1'
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})

import json
import pathlib
import subprocess
import tempfile
import time

import jax
import numpy as np
from absl import app, flags

from core import decoder
from core.engine import Engine, Request, sample

FLAGS = flags.FLAGS
flags.DEFINE_integer('width', 256, 'Model width; heads of 64, feed-forward three times the width.')
flags.DEFINE_integer('layers', 4, 'Number of layers.')
flags.DEFINE_integer('vocab', 2048, 'Vocabulary.')
flags.DEFINE_integer('slots', 16, 'Rows decoded together by every arm.')
flags.DEFINE_integer('batches', 6, 'Requests, in batches of `slots`.')
flags.DEFINE_integer('prompt', 32, 'Longest prompt; they are uniform from a half of it.')
flags.DEFINE_integer('longest', 256, 'Longest answer.')
flags.DEFINE_enum(
  'lengths',
  'longtail',
  ['longtail', 'uniform', 'equal'],
  'longtail: lognormal, the longest four times the median; uniform: from a quarter of the longest.',
)
flags.DEFINE_integer('segment', 16, 'Tokens between two looks of the host.')
flags.DEFINE_integer('page_size', 32, 'Tokens of a page.')
flags.DEFINE_integer('repeats', 3, 'Timed runs an arm.')
flags.DEFINE_string('peer_python', None, 'Interpreter of an environment with google-tunix.')


def shape() -> decoder.Config:
  """The model."""
  return decoder.Config(
    vocab=FLAGS.vocab,
    width=FLAGS.width,
    depth=FLAGS.layers,
    heads=FLAGS.width // 64,
    kv_heads=max(FLAGS.width // 128, 1),
    head_dim=64,
    mlp_width=3 * FLAGS.width,
    norm_eps=1e-6,
    rope_theta=1e6,
    qk_norm=True,
    max_length=FLAGS.prompt + FLAGS.longest,
  )


def workload() -> tuple[list[list[int]], np.ndarray]:
  """(prompts, lengths of their answers)."""
  r = np.random.default_rng(0)
  n, longest = FLAGS.slots * FLAGS.batches, FLAGS.longest
  prompts = [r.integers(1, FLAGS.vocab, r.integers(FLAGS.prompt // 2, FLAGS.prompt + 1)).tolist() for _ in range(n)]
  drawn = {
    'longtail': longest / 4 * np.exp(0.7 * r.standard_normal(n)),
    'equal': np.full(n, longest),
    'uniform': r.uniform(longest / 4, longest, n),
  }[FLAGS.lengths]
  return prompts, np.clip(drawn, 4, longest).astype(int)


def static(params, config, prompts, lengths) -> list[list[int]]:
  """Batch by batch, each until its longest answer is done."""
  rows = []
  for start in range(0, len(prompts), FLAGS.slots):
    part = prompts[start : start + FLAGS.slots]
    tokens = np.array([[0] * (FLAGS.prompt - len(p)) + p for p in part], np.int32)
    at = np.array([[*[-1] * (FLAGS.prompt - len(p)), *range(len(p))] for p in part], np.int32)
    limit = lengths[start : start + FLAGS.slots]
    g = sample.Generation(
      params, config, tokens, at, max_new=limit, sampling=sample.Sampling.of(len(part), temperature=1.0, seed=start)
    )
    g.advance()
    rows += [row.tolist() for row in g.rows()]
  return rows


def rollout(engine: Engine, prompts, lengths) -> tuple[list[list[int]], float, int]:
  """(tokens, CPU seconds and tokens of the steady state)."""
  for i, (prompt, length) in enumerate(zip(prompts, lengths)):
    engine.submit(Request(prompt, int(length), temperature=1.0, seed=i))
  before, start, done = engine.stats.decoded, time.process_time(), []
  while engine.scheduler.waiting or not done:
    done += engine.step()
  seconds, tokens = time.process_time() - start, engine.stats.decoded - before
  done += engine.run()
  engine.scheduler.prefixes.clear()  # the next repeat fills its prompts in again
  return [c.tokens.tolist() for c in sorted(done, key=lambda c: c.id)], seconds, tokens


class Peer:
  """tunix in its own process."""

  def __init__(self, params, config):
    self._folder = tempfile.TemporaryDirectory()
    decoder.save(self._folder.name, config, params)
    script = pathlib.Path(__file__).with_name('rollout_peer.py')
    self._process = subprocess.Popen(
      [FLAGS.peer_python, script], text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    self._say(
      {
        'folder': self._folder.name,
        'prompt': FLAGS.prompt,
        'cache': FLAGS.prompt + FLAGS.longest,
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
    starts = range(0, len(prompts), FLAGS.slots)
    self._say(
      {
        'batches': [prompts[i : i + FLAGS.slots] for i in starts],
        'sampled': sampled,
        'steps': [int(max(lengths[i : i + FLAGS.slots])) for i in starts],
      }
    )
    return json.loads(self._process.stdout.readline())

  def close(self):
    """Ends the process."""
    self._process.stdin.close()
    self._process.wait()
    self._folder.cleanup()


def agree(peer: Peer, params, config, prompts) -> None:
  """Raises SystemExit unless both compute the same greedy tokens."""
  theirs = peer(prompts[:1] * FLAGS.slots, [16], sampled=False)['tokens'][0]
  prompt = np.array([prompts[0]], np.int32)
  state = sample.generate(
    params, config, prompt, np.arange(prompt.shape[1])[None], max_new=16, sampling=sample.Sampling.of(1)
  )
  if theirs != np.asarray(state.tokens)[0, :16].tolist():
    raise SystemExit('the peer does not compute the same model: greedy tokens differ')


def main(_):
  """Measures the arms and prints tokens a CPU second."""
  config = shape()
  params = decoder.init(jax.random.key(0), config)
  prompts, lengths = workload()
  fast = sample.for_decoding(params)
  pages = 2 * FLAGS.slots * -(-config.max_length // FLAGS.page_size)
  engine = Engine(params, config, slots=FLAGS.slots, pages=pages, page_size=FLAGS.page_size, segment=FLAGS.segment)
  peer = Peer(params, config) if FLAGS.peer_python else None
  same = sum(a == b for a, b in zip(rollout(engine, prompts, lengths)[0], static(fast, config, prompts, lengths)))
  if peer:
    agree(peer, params, config, prompts)
    peer(prompts, lengths, sampled=True)  # compiles
  rates: dict[str, list[float]] = {'engine': [], 'static': [], 'tunix': []}
  for _ in range(FLAGS.repeats):
    _, seconds, tokens = rollout(engine, prompts, lengths)
    rates['engine'].append(tokens / seconds)
    start = time.process_time()
    static(fast, config, prompts, lengths)
    rates['static'].append(lengths.sum() / (time.process_time() - start))
    if peer:
      rates['tunix'].append(lengths.sum() / peer(prompts, lengths, sampled=True)['seconds'])
  if peer:
    peer.close()
  batches = lengths.reshape(-1, FLAGS.slots)
  print(
    f'width {FLAGS.width} x {FLAGS.layers} layers, {FLAGS.slots} slots, {FLAGS.lengths} lengths: mean '
    f'{lengths.mean():.0f}, median {np.median(lengths):.0f}, longest {lengths.max()}; a static batch runs '
    f'{batches.max(1).mean() / lengths.mean():.2f}x the mean; rows with the tokens of core.engine.sample: {same} of '
    f'{len(lengths)}; load {os.getloadavg()[0]:.1f}'
  )
  best = {name: max(r) for name, r in rates.items() if r}
  for name, rate in best.items():
    print(
      f'{name}: {rate:.0f} tokens a CPU second (all: {", ".join(f"{r:.0f}" for r in rates[name])}); '
      f'engine {best["engine"] / rate:.2f}x'
    )


if __name__ == '__main__':
  app.run(main)
