"""Greedy decoding: ours against transformers' torch-CPU `generate` on the same random float32 weights.

  python -m bench.perf.generate --width=256 --layers=4 --batches=1,8
  python -m bench.perf.generate --width=512 --layers=8 --kinds=float32,bfloat16,int8

One pinned thread, CPU seconds, the arms interleaved in one run, minimum of the repeats after a warm-up; ids in float32
must be identical. `--kinds` adds ours with bfloat16 weights or int8 matrices, in multiples of the speed with float32.
Compilation is listed by itself. The floor is the time to read a step's float32 weights and cache once, at the
bandwidth of a large sum in this process; `at most` is the ratio that decoding at the floor would reach. Other work on
the machine shares its memory bandwidth, so it slows all arms, and more those that wait for memory.
"""

import dataclasses
import sys
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

from bench.perf.measuring import clock, qwen, report
from bench.perf.measuring.pinned import pin
from bench.perf.measuring.rates import bandwidth
from core.launch import command
from core.launch.fields import field

# jax is imported by the functions that need it: `pin` must come before its first import.


MATRICES = r'blocks\.(attn\.[qkvo]|mlp\.(gate|up|down))|head'  # that are int8 in that kind


@dataclasses.dataclass(frozen=True)
class Options(qwen.Shape):
  """The program's flags."""

  batches: tuple[int, ...] = field((1, 8), 'batch sizes')
  kinds: tuple[Literal['float32', 'bfloat16', 'int8'], ...] = field(('float32',), 'weights of ours, float32 among them')
  prompt: int = field(32, 'prompt tokens', low=1)
  new: int = field(128, 'new tokens', low=1)
  repeats: int = field(5, 'timed runs of each arm', low=1)
  json: bool = field(False, 'print JSON')

  def __post_init__(self):
    if 'float32' not in self.kinds:
      raise ValueError(f'kinds={",".join(self.kinds)}: expected float32 among them, which the others are compared with')


def of_kind(params: Any, kind: str) -> Any:
  """Weights of a kind, ready for decoding, from those in float32."""
  import jax

  from core import params as params_lib
  from core.engine import generate

  if kind == 'int8':
    params = params_lib.map_weights(lambda _, w: params_lib.to_int8(w), params, MATRICES)
  else:
    params = jax.tree.map(lambda w: w.astype(kind), params)
  return generate.for_decoding(params)


def step_bytes(params, config, *, batch: int, length: int) -> int:
  """Bytes one decoding step must read: every matrix once, and a float32 cache of `length` tokens."""
  import jax

  weights = sum(w.nbytes for w in jax.tree.leaves(params.replace(embed=None)))
  return weights + 2 * 4 * batch * length * config.depth * config.kv_heads * config.head_dim


def ours(options: Options, params: Any, config: Any, tokens: np.ndarray) -> Callable[[], np.ndarray]:
  """A function that decodes the prompts greedily and returns ids [batch, new]."""
  from core.engine import generate
  from core.engine.sampling import Sampling

  positions = np.broadcast_to(np.arange(options.prompt), tokens.shape)

  def run() -> np.ndarray:
    sampling = Sampling.of(len(tokens))
    state = generate.run(params, config, tokens, positions, max_new=options.new, sampling=sampling)
    return np.asarray(state.tokens)[:, : options.new]

  return run


def theirs(options: Options, model: Any, tokens: np.ndarray) -> Callable[[], np.ndarray]:
  """The same by transformers."""
  import torch

  def run() -> np.ndarray:
    mask = torch.ones(tokens.shape, dtype=torch.long)
    bounds = {'max_new_tokens': options.new, 'min_new_tokens': options.new}
    with torch.inference_mode():
      out = model.generate(torch.tensor(tokens), do_sample=False, attention_mask=mask, **bounds)
    return out[:, options.prompt :].numpy()

  return run


def compare(options: Options, batch: int, model, config, weights: dict[str, Any], *, rate: float) -> report.Row:
  """Figures for one batch size; weights by kind; rate: bytes a second. Raises ValueError when the ids differ."""
  tokens = np.random.default_rng(0).integers(1, options.vocab, (batch, options.prompt))
  arms = {kind: ours(options, params, config, tokens) for kind, params in weights.items()}
  arms['transformers'] = theirs(options, model, tokens)
  first = {name: clock.timed(run) for name, run in arms.items()}
  if not np.array_equal(first['float32'][1], first['transformers'][1]):
    raise ValueError(f'batch {batch}: greedy ids differ')
  seconds = clock.fastest(arms, repeats=options.repeats)
  length = options.prompt + options.new // 2
  floor = step_bytes(weights['float32'], config, batch=batch, length=length) / rate * options.new
  row: dict[str, Any] = {'what': f'batch {batch}'}
  row |= {f'{name} s': least for name, least in seconds.items()}
  row['times faster'] = seconds['transformers'] / seconds['float32']
  row |= {
    f'{kind} times faster than float32': seconds['float32'] / seconds[kind]
    for kind in options.kinds
    if kind != 'float32'
  }
  row |= {'floor s': floor, 'at most': seconds['transformers'] / floor}
  return row | {f'{kind} compilation s': first[kind][0] - seconds[kind] for kind in options.kinds}


def work(options: Options) -> None:
  """Measures each batch size and prints the ratios."""
  pin()
  model = qwen.reference(options)
  config, params = qwen.converted(model)
  weights = {kind: of_kind(params, kind) for kind in options.kinds}
  rate = bandwidth(repeats=options.repeats)
  report.show(report.machine() | {'reading GB/s': rate / 1e9}, as_json=options.json)
  for batch in options.batches:
    row = compare(options, batch, model, config, weights, rate=rate)
    report.show(row, as_json=options.json)


def main(argv: Sequence[str]) -> int:
  """Runs the program; returns its exit status."""
  return command.run(argv, __doc__, Options, work)


if __name__ == '__main__':
  sys.exit(main(sys.argv))
