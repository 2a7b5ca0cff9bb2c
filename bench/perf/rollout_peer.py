"""The peer's side of `bench.perf.rollout`: tunix's sampler on weights in safetensors, asked over pipes.

Runs in a separate environment (`pip install google-tunix`), as a script; imports nothing of this project. The first
line of the input describes the model; each further one asks for batches of prompts and gives the steps of each, as JSON
`{"batches": [[[token, …], …], …], "steps": [n, …], "sampled": true}`, and is answered by `{"seconds": CPU seconds,
"tokens": the rows of the last batch}`.
"""

# ruff: noqa: E402 -- the settings must precede the first import of jax.
import os
import sys

# What the libraries print must not mix with the answers.
ANSWERS = os.fdopen(os.dup(1), 'w')
os.dup2(2, 1)
os.environ['XLA_FLAGS'] = os.environ.get('XLA_FLAGS', '') + ' --xla_cpu_multi_thread_eigen=false'
os.environ['OMP_NUM_THREADS'] = '1'
os.environ['JAX_PLATFORMS'] = 'cpu'

import json
import time

import jax
from tunix.generate import sampler
from tunix.models.qwen3 import model, params


class Numbers:
  """A tokenizer of decimal ids."""

  def encode(self, text, **_):
    """Ids of a text."""
    return [int(x) for x in text.split()]

  def decode(self, ids, **_):
    """Text of ids."""
    return ' '.join(map(str, ids))

  def bos_id(self):
    """None is put in front."""
    return 0

  def eos_id(self):
    """Outside the vocabulary: nothing stops early."""
    return 10**6

  def pad_id(self):
    """Token 0 is padding."""
    return 0


def main():
  """Answers until the input ends."""
  about = json.loads(sys.stdin.readline())
  config = model.ModelConfig(**about['config'])
  mesh = jax.make_mesh((1, 1), ('fsdp', 'tp'), axis_types=(jax.sharding.AxisType.Auto,) * 2)
  with mesh:
    qwen = params.create_model_from_safe_tensors(about['folder'], config, mesh)
    cache = sampler.CacheConfig(
      cache_size=about['cache'],
      num_layers=config.num_layers,
      num_kv_heads=config.num_kv_heads,
      head_dim=config.head_dim,
    )
    run = sampler.Sampler(qwen, Numbers(), cache)
    for line in sys.stdin:
      ask = json.loads(line)
      start = time.process_time()
      for batch, steps in zip(ask['batches'], ask['steps']):
        sampled = {}
        if ask['sampled']:
          sampled = {'temperature': 1.0, 'top_p': 1.0}
        out = run(
          [' '.join(map(str, row)) for row in batch],
          max_generation_steps=steps,
          max_prompt_length=about['prompt'],
          return_logprobs=True,
          seed=0,
          **sampled,
        )
      seconds = time.process_time() - start
      tokens = [list(map(int, row)) for row in out.tokens]
      print(json.dumps({'seconds': seconds, 'tokens': tokens}), file=ANSWERS, flush=True)


if __name__ == '__main__':
  main()
