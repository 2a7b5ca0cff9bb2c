"""Greedy decoding: ours against transformers' torch-CPU `generate` on the same random float32 weights.

  python -m bench.perf.generate --width=256 --layers=4 --batches=1,8

One pinned thread, CPU seconds, the arms interleaved in one run, minimum of the repeats after a warm-up; the ids must
be identical. Compile time is listed by itself. The floor is the time to read a step's weights and cache once, at the
bandwidth of a large sum in this process; `at most` is the ratio that decoding at the floor would reach. Other work on
the machine shares its memory bandwidth, so it slows both arms, and more the one that waits for memory.
"""

import dataclasses
import os
import sys
import time
from collections.abc import Sequence

from bench.perf.measuring import qwen
from bench.perf.measuring.clock import fastest
from bench.perf.measuring.pinned import pin
from bench.perf.measuring.rates import bandwidth
from core.launch import command
from core.launch.fields import field

# jax is imported by the functions that need it: `pin` must come before its first import.


@dataclasses.dataclass(frozen=True)
class Options(qwen.Shape):
  """The program's flags."""

  batches: tuple[int, ...] = field((1, 8), 'batch sizes')
  prompt: int = field(32, 'prompt tokens', low=1)
  new: int = field(128, 'new tokens', low=1)
  repeats: int = field(5, 'timed runs of each arm', low=1)


def step_bytes(params, config, *, batch: int, length: int) -> int:
  """Bytes one decoding step must read: every matrix once, and a float32 cache of `length` tokens."""
  import jax

  weights = sum(w.nbytes for w in jax.tree.leaves(params.replace(embed=None)))
  return weights + 2 * 4 * batch * length * config.depth * config.kv_heads * config.head_dim


def arms(options: Options, batch: int, model, config, params) -> dict:
  """Functions that decode the same prompts greedily and return ids [batch, new]."""
  import numpy as np
  import torch

  from core.engine import generate
  from core.engine.sampling import Sampling

  new = options.new
  shape = (batch, options.prompt)
  tokens = np.random.default_rng(0).integers(1, options.vocab, shape)
  positions = np.broadcast_to(np.arange(options.prompt), shape)

  def ours():
    state = generate.run(params, config, tokens, positions, max_new=new, sampling=Sampling.of(batch))
    return np.asarray(state.tokens)[:, :new]

  def theirs():
    mask = torch.ones(shape, dtype=torch.long)
    bounds = {'max_new_tokens': new, 'min_new_tokens': new}
    with torch.inference_mode():
      out = model.generate(torch.tensor(tokens), do_sample=False, attention_mask=mask, **bounds)
    return out[:, options.prompt :].numpy()

  return {'ours': ours, 'theirs': theirs}


def compare(options: Options, batch: int, model, config, params, *, rate: float) -> str:
  """A line of figures for one batch size; rate: bytes a second. Raises ValueError when the ids differ."""
  import numpy as np

  both = arms(options, batch, model, config, params)
  start = time.process_time()
  got = both['ours']()
  first = time.process_time() - start
  if not np.array_equal(got, both['theirs']()):
    raise ValueError(f'batch {batch}: greedy ids differ')
  seconds = fastest(both, repeats=options.repeats)
  ours = seconds['ours']
  theirs = seconds['theirs']
  length = options.prompt + options.new // 2
  floor = step_bytes(params, config, batch=batch, length=length) / rate * options.new
  return (
    f'batch {batch}: ours {ours:.3f} s ({batch * options.new / ours:.0f} tok/s), transformers {theirs:.3f} s: '
    f'{theirs / ours:.2f}x; floor {floor:.3f} s ({ours / floor:.2f}x above; at most {theirs / floor:.2f}x); '
    f'compilation {first - ours:.1f} s'
  )


def work(options: Options) -> None:
  """Measures each batch size and prints the ratios."""
  pin()
  from core.engine import generate

  model = qwen.reference(options)
  config, params = qwen.converted(model)
  params = generate.for_decoding(params)
  rate = bandwidth(repeats=options.repeats)
  print(
    f'{options.family} width {options.width} x {options.layers} layers, vocabulary {options.vocab}, float32, prompt '
    f'{options.prompt}, {options.new} new tokens, one thread; reading {rate / 1e9:.1f} GB/s; load average '
    f'{os.getloadavg()[0]:.1f} on {os.cpu_count()} cores'
  )
  for batch in options.batches:
    print(compare(options, batch, model, config, params, rate=rate), flush=True)


def main(argv: Sequence[str]) -> int:
  """Runs the program; returns its exit status."""
  return command.run(argv, __doc__, Options, work)


if __name__ == '__main__':
  sys.exit(main(sys.argv))
