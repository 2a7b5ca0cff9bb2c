"""Greedy decoding: ours against transformers' torch-CPU `generate` on the same random float32 weights.

  python -m bench.perf.generate --width=256 --layers=4 --batches=1,8

One pinned thread, CPU seconds, the arms interleaved in one run, minimum of the repeats after a warm-up; the ids must
be identical. Compile time stands apart. The floor is the time to read a step's weights and cache once, at the
bandwidth of a large sum in this process; `at most` is the ratio that decoding at the floor would reach. Other work on
the machine shares its memory bandwidth, so it slows both arms, and more the one that waits for memory.
"""

# ruff: noqa: E402 -- the settings above the imports must precede the first import of jax.
import os

os.environ['XLA_FLAGS'] = os.environ.get('XLA_FLAGS', '') + ' --xla_cpu_multi_thread_eigen=false'
os.environ['OMP_NUM_THREADS'] = os.environ['MKL_NUM_THREADS'] = '1'
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})

import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from core import decoder
from core.engine import sample

FLAGS = flags.FLAGS
flags.DEFINE_string('family', 'qwen3', 'Shape of the decoder: qwen2 or qwen3.')
flags.DEFINE_integer('width', 256, 'Model width; heads of 64, feed-forward three times the width.')
flags.DEFINE_integer('layers', 4, 'Number of layers.')
flags.DEFINE_integer('vocab', 2048, 'Vocabulary.')
flags.DEFINE_list('batches', ['1', '8'], 'Batch sizes.')
flags.DEFINE_integer('prompt', 32, 'Prompt tokens.')
flags.DEFINE_integer('new', 128, 'New tokens.')
flags.DEFINE_integer('repeats', 5, 'Timed runs an arm.')


def reference(torch, transformers):
  """A random transformers model of the asked shape, weights large enough that greedy ids are not ties."""
  kind = {
    'qwen2': (transformers.Qwen2Config, transformers.Qwen2ForCausalLM),
    'qwen3': (transformers.Qwen3Config, transformers.Qwen3ForCausalLM),
  }[FLAGS.family]
  config = kind[0](
    vocab_size=FLAGS.vocab,
    hidden_size=FLAGS.width,
    num_hidden_layers=FLAGS.layers,
    num_attention_heads=FLAGS.width // 64,
    num_key_value_heads=max(FLAGS.width // 128, 1),
    head_dim=64,
    intermediate_size=3 * FLAGS.width,
    tie_word_embeddings=False,
    eos_token_id=None,
    bos_token_id=None,
    pad_token_id=0,
  )
  torch.manual_seed(0)
  model = kind[1](config).eval()
  for p in model.parameters():
    if p.ndim == 2:
      p.data = torch.randn_like(p) / p.shape[1] ** 0.5
  return model


def fastest(arms: dict) -> dict[str, float]:
  """Least CPU seconds of each arm over interleaved repeats."""
  times = {name: [] for name in arms}
  for _ in range(FLAGS.repeats):
    for name, run in arms.items():
      start = time.process_time()
      run()
      times[name].append(time.process_time() - start)
  return {name: min(t) for name, t in times.items()}


def bandwidth() -> float:
  """Bytes a second of reading 256 MB once, by XLA on the pinned thread."""
  x = jnp.ones(2**26, jnp.float32)
  total = jax.jit(jnp.sum)
  total(x).block_until_ready()
  return x.nbytes / fastest({'read': lambda: total(x).block_until_ready()})['read']


def step_bytes(params, config, batch: int) -> int:
  """Bytes one decoding step must read: every matrix once, and the cache at its mean length."""
  weights = sum(w.nbytes for w in jax.tree.leaves(params.replace(embed=None)))
  slots = FLAGS.prompt + FLAGS.new // 2
  return weights + 2 * 4 * batch * slots * config.depth * config.kv_heads * config.head_dim


def main(_):
  """Measures each batch size and prints the ratios."""
  import torch
  import transformers

  torch.set_num_threads(1)
  model = reference(torch, transformers)
  with tempfile.TemporaryDirectory() as folder:
    model.save_pretrained(folder)
    config, params = decoder.load(folder, dtype=jnp.float32)
  params = sample.for_decoding(params)
  rate = bandwidth()
  print(
    f'{FLAGS.family} width {FLAGS.width} x {FLAGS.layers} layers, vocabulary {FLAGS.vocab}, float32, prompt '
    f'{FLAGS.prompt}, {FLAGS.new} new tokens, one thread; reading {rate / 1e9:.1f} GB/s; load average '
    f'{os.getloadavg()[0]:.1f} on {os.cpu_count()} cores'
  )
  for batch in map(int, FLAGS.batches):
    tokens = np.random.default_rng(0).integers(1, FLAGS.vocab, (batch, FLAGS.prompt))
    positions = np.broadcast_to(np.arange(FLAGS.prompt), tokens.shape)

    def ours(tokens=tokens, positions=positions, batch=batch):
      state = sample.generate(params, config, tokens, positions, max_new=FLAGS.new, sampling=sample.Sampling.of(batch))
      return np.asarray(state.tokens)[:, : FLAGS.new]

    def theirs(tokens=tokens):
      with torch.inference_mode():
        out = model.generate(
          torch.tensor(tokens),
          max_new_tokens=FLAGS.new,
          min_new_tokens=FLAGS.new,
          do_sample=False,
          attention_mask=torch.ones(tokens.shape, dtype=torch.long),
        )
      return out[:, FLAGS.prompt :].numpy()

    start = time.process_time()
    got = ours()
    first = time.process_time() - start
    if not np.array_equal(got, theirs()):
      raise SystemExit(f'batch {batch}: greedy ids differ')
    t = fastest({'ours': ours, 'theirs': theirs})
    floor = step_bytes(params, config, batch) / rate * FLAGS.new
    print(
      f'batch {batch}: ours {t["ours"]:.3f} s ({batch * FLAGS.new / t["ours"]:.0f} tok/s), transformers '
      f'{t["theirs"]:.3f} s: {t["theirs"] / t["ours"]:.2f}x; floor {floor:.3f} s '
      f'({t["ours"] / floor:.2f}x above; at most {t["theirs"] / floor:.2f}x); '
      f'compilation {first - t["ours"]:.1f} s'
    )


if __name__ == '__main__':
  app.run(main)
