"""A supervised step: ours against transformers on torch, with the same random float32 weights.

  python -m bench.perf.train --width=256 --layers=4 --rows=8 --tokens=512

One pinned thread, CPU seconds, the arms interleaved, minimum of the repeats after a warm-up. Both predict the next
token of the same random rows, clip the gradient and step AdamW; the first losses must be equal. `--accumulate` cuts the
batch of both into micro-batches. With one, forward pass and gradient are timed apart as well. The floor is the time of
the matrix products alone (attention over the keys that a query may see, three passes) at the rate of a large one. The
last row of each number of micro-batches says what our step's time is made of, by a trace of its operations.
"""

import dataclasses
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from bench.perf.measuring import clock, qwen, rates, report, trace
from bench.perf.measuring.pinned import pin
from core.launch import command
from core.launch.fields import field

# jax is imported by the functions that need it: `pin` must come before its first import.

RATE, CLIP = 1e-4, 1.0
TOLERANCE = 1e-6  # of the first losses
PARTS = ('step', 'forward', 'gradient')
Arm = dict[str, Callable[[], Any]]


@dataclasses.dataclass(frozen=True)
class Options(qwen.Shape):
  """The program's flags."""

  rows: int = field(8, 'rows of a batch', low=1)
  tokens: int = field(512, 'tokens of a row', low=2)
  accumulate: tuple[int, ...] = field((1, 8), 'numbers of micro-batches, each of which divides the rows')
  repeats: int = field(4, 'timed runs of each arm', low=1)
  json: bool = field(False, 'print JSON')

  def __post_init__(self):
    wrong = [n for n in self.accumulate if n < 1 or self.rows % n]
    if wrong:
      raise ValueError(f'accumulate={wrong[0]}: expected a divisor of rows={self.rows}')


def supervised(config: Any) -> Callable:
  """Our loss of token rows [B, T + 1], as `core.training.steps` takes it."""
  import jax.numpy as jnp

  from core import decoder
  from core.training.steps import Loss

  def loss(params, rows, key):
    out = decoder.forward(params, config, decoder.embed(params, rows[:, :-1]), remat_policy='none')
    logp, _ = decoder.log_probs(params, config, out.hidden, rows[:, 1:])
    return Loss(-logp.sum(), jnp.float32(logp.size))

  return loss


def ours(config: Any, params: Any, rows: np.ndarray, accumulate: int) -> Arm:
  """The parts of a step of ours, each of which returns the loss; and `text`, the step's compiled program."""
  import jax

  from core import decoder
  from core.training.optim import Optim, optimizer
  from core.training.steps import init_state, make_step

  loss = supervised(config)
  tx = optimizer(Optim(lr=RATE, schedule='constant', clip_norm=CLIP), 1000, decoder.spec(config))
  step = make_step(loss, tx, accumulate=accumulate)
  mean = lambda params, rows: loss(params, rows, None).total / (rows.size - len(rows))
  forward = jax.jit(mean)
  gradient = jax.jit(jax.value_and_grad(mean))
  held = {'state': init_state(jax.tree.map(jax.numpy.array, params), tx)}
  part = rows[: len(rows) // accumulate]

  def given() -> tuple:
    return held['state'], None, rows, jax.random.key(0)

  def whole() -> float:
    held['state'], metrics = step(*given())
    return float(metrics['loss'])

  def text() -> str:
    return step.lower(*given()).compile().as_text()

  return {
    'step': whole,
    'text': text,
    'forward': lambda: float(forward(params, part)),
    'gradient': lambda: float(jax.block_until_ready(gradient(params, part))[0]),
  }


def theirs(model: Any, rows: np.ndarray, accumulate: int) -> Arm:
  """The parts of a step of transformers on torch; each returns the loss."""
  import copy

  import torch

  model = copy.deepcopy(model).train()
  tx = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.0)
  parts = torch.tensor(rows).chunk(accumulate)

  def loss(part):
    logits = model(part[:, :-1]).logits
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), part[:, 1:].flatten())

  def forward() -> float:
    with torch.no_grad():
      return float(loss(parts[0]))

  def gradient(part) -> float:
    mean = loss(part) / accumulate
    mean.backward()
    return float(mean.detach())

  def whole() -> float:
    tx.zero_grad()
    total = sum(map(gradient, parts))
    torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
    tx.step()
    return total

  return {'step': whole, 'forward': forward, 'gradient': lambda: gradient(parts[0]) * accumulate}


def operations(options: Options, config: Any) -> float:
  """Floating-point operations of a step's products: each weight for each token, scores and values, three passes."""
  c = config
  attention = c.width * c.head_dim * (2 * c.heads + 2 * c.kv_heads)
  weights = c.depth * (attention + 3 * c.width * c.mlp_width) + c.width * c.vocab
  pairs = options.tokens * (options.tokens + 1) / 2
  seen = c.depth * 2 * c.heads * c.head_dim * pairs
  return 3 * 2 * options.rows * (options.tokens * weights + seen)


def compare(options: Options, model: Any, config: Any, params: Any, accumulate: int) -> list[dict[str, Any]]:
  """Figures of both arms with `accumulate` micro-batches, and what our time is made of.

  Raises ValueError unless their first losses agree.
  """
  rows = np.random.default_rng(0).integers(0, options.vocab, (options.rows, options.tokens + 1))
  arms = {'ours': ours(config, params, rows, accumulate), 'transformers': theirs(model, rows, accumulate)}
  compiling, loss = clock.timed(arms['ours']['step'])
  other = arms['transformers']['step']()
  if not abs(loss - other) <= TOLERANCE * abs(other):
    raise ValueError(f'the first losses differ: {loss} and {other}')
  floor = operations(options, config) / rates.products_per_second(repeats=options.repeats)
  row: dict[str, Any] = {'what': f'{accumulate} micro-batches'}
  for part in PARTS if accumulate == 1 else PARTS[:1]:
    both = {name: arm[part] for name, arm in arms.items()}
    for run in both.values():
      run()
    seconds = clock.fastest(both, repeats=options.repeats)
    row |= {f'{name} {part} s': least for name, least in seconds.items()}
  ratio = row['transformers step s'] / row['ours step s']
  row |= {'times faster': ratio, 'floor s': floor, 'first loss': loss, 'first step s': compiling}
  shares = trace.shares(arms['ours']['step'], arms['ours']['text']())
  return [row, {'what': f'{accumulate} micro-batches, parts of our step', **shares}]


def work(options: Options) -> None:
  """Measures each number of micro-batches."""
  pin()
  model = qwen.reference(options)
  config, params = qwen.converted(model)
  report.show(report.machine(), as_json=options.json)
  for accumulate in options.accumulate:
    for row in compare(options, model, config, params, accumulate):
      report.show(row, as_json=options.json)


def main(argv: Sequence[str]) -> int:
  """Runs the program; returns its exit status."""
  return command.run(argv, __doc__, Options, work)


if __name__ == '__main__':
  sys.exit(main(sys.argv))
