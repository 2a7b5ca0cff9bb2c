"""Kernels on this machine's CPU: tree attention against a gather for each row, the diffusion head against torch.

  python -m bench.perf.kernels [--operation=tree --leaves=8 --shared=1024 --own=192]
  python -m bench.perf.kernels --operation=head --width=1536

One pinned thread, CPU seconds, the arms interleaved in one run, minimum of the repeats after a warm-up; the results
must agree. The floor is the bytes by formula at the bandwidth of a large sum in the same process. The sharing ratio is
the bytes of keys that a gather for each row reads over those of the unique pages: no kernel can gain more.
"""

import dataclasses
import sys
from collections.abc import Callable, Sequence
from typing import Any, Literal

from bench.perf.measuring import pinned
from bench.perf.measuring.clock import fastest
from bench.perf.measuring.rates import bandwidth
from core.launch import command
from core.launch.fields import field

# jax is imported by the functions that need it: `pin` must come before its first import.


@dataclasses.dataclass(frozen=True)
class Options:
  """The program's flags."""

  operation: Literal['tree', 'head'] = field('tree', 'what is timed')
  model: str = field('qwen3-0.6b', 'tree: the decoder whose shape it has, a name in `kernels.shapes.ATTENTION`')
  trees: int = field(2, 'tree: prompts', low=1)
  leaves: int = field(8, 'tree: rows that share each prompt', low=1)
  shared: int = field(1024, 'tree: tokens of a prompt', low=0)
  own: int = field(192, 'tree: tokens of each row alone', low=1)
  page_size: int = field(16, 'tree: tokens of a page', low=1)
  width: int = field(1536, 'head: width; its feed-forward is three times as wide', low=64)
  steps: int = field(10, 'head: solver steps of a frame', low=1)
  rows: int = field(1, 'head: frames at once, each with guidance', low=1)
  repeats: int = field(4, 'timed runs of each arm', low=1)


@dataclasses.dataclass(frozen=True)
class Case:
  """Arms that compute the same, ours first; bytes that ours must read, and its FLOPs."""

  title: str
  arms: dict[str, Callable[[], Any]]
  bytes: int
  flops: int
  tolerance: float


def tables(options: Options) -> list[list[int]]:
  """The pages of each row, in order: those of its prompt, then its own."""
  shared = options.shared // options.page_size
  own = options.own // options.page_size
  rows = []
  for tree in range(options.trees):
    first = tree * (shared + options.leaves * own)
    prompt = list(range(first, first + shared))
    for leaf in range(options.leaves):
      begin = first + shared + leaf * own
      rows.append([*prompt, *range(begin, begin + own)])
  return rows


def gathered(q, k_pages, v_pages, table):
  """Attention of rows [R, N, H] that each gather their own pages, table int32 [R, T]: what is done without sharing."""
  import jax
  import jax.numpy as jnp

  rows, query_heads, size = q.shape
  heads = k_pages.shape[1]
  scaled = q / size**0.5
  grouped = scaled.reshape(rows, heads, query_heads // heads, size)
  k = jnp.moveaxis(k_pages[table], 1, 3)
  k = k.reshape(rows, heads, size, -1)
  v = jnp.moveaxis(v_pages[table], 1, 2)
  v = v.reshape(rows, heads, -1, size)
  scores = jnp.einsum('rkgh,rkht->rkgt', grouped, k)
  weights = jax.nn.softmax(scores, axis=-1)
  out = jnp.einsum('rkgt,rkth->rkgh', weights, v)
  return out.reshape(q.shape)


def tree_case(options: Options) -> Case:
  """Tree attention of `xla` against a gather for each row; every row reads whole pages."""
  import jax
  import jax.numpy as jnp
  import numpy as np

  from kernels import shapes, tree_attention
  from kernels.tree.plan import plan

  shape = shapes.ATTENTION[options.model]
  rows = tables(options)
  size = options.page_size
  length = len(rows[0]) * size
  on_host = plan(rows, [length] * len(rows), page_size=size)
  made = jax.tree.map(jnp.asarray, on_host)
  pages = max(row[-1] for row in rows) + 1
  rng = np.random.default_rng(0)

  def draw(*dims):
    return jnp.asarray(rng.standard_normal(dims, np.float32))

  q = draw(len(rows), shape.query_heads, shape.head_size)
  k = draw(pages, shape.key_heads, shape.head_size, size)
  v = draw(pages, shape.key_heads, size, shape.head_size)
  table = jnp.asarray(rows, jnp.int32)
  ours = jax.jit(lambda q, k, v, plan: tree_attention(q, k, v, plan, implementation='xla')[0])
  by_row = jax.jit(gathered)
  tokens = len(rows) * length
  ratio = tokens / (pages * size)
  token = 2 * shape.key_heads * shape.head_size * k.dtype.itemsize
  return Case(
    title=f'{options.model}, float32, {len(rows)} rows of {length} tokens, sharing ratio {ratio:.2f}',
    arms={
      'tree (xla)': lambda: np.asarray(ours(q, k, v, made)),
      'gather a row': lambda: np.asarray(by_row(q, k, v, table)),
    },
    bytes=pages * size * token,
    flops=4 * shape.query_heads * shape.head_size * tokens,
    tolerance=1e-4,
  )


class TorchHead:
  """The head of torch in the published order: modulation at every step, both branches in one batch."""

  def __init__(self, weights):
    self.blocks = []
    for block in weights.blocks:
      matrices = [_linear(x) for x in (block.modulation, block.gate, block.up, block.down)]
      self.blocks.append((_tensor(block.norm), *matrices))
    self.into = _linear(weights.noise)
    self.project = _linear(weights.condition)
    self.last = _linear(weights.modulation)
    self.out = _linear(weights.out)

  def velocity(self, x, hidden, time):
    """The velocity of noisy latents, given hidden states and one embedded timestep."""
    from torch.nn import functional

    def norm(x):
      return functional.rms_norm(x, x.shape[-1:], eps=1e-5)

    linear = functional.linear
    active = functional.silu(linear(hidden, self.project) + time)
    u = linear(x, self.into)
    for weight, modulation, gate, up, down in self.blocks:
      shift, scale, out_gate = linear(active, modulation).chunk(3, -1)
      m = norm(u) * weight * (1 + scale) + shift
      gated = functional.silu(linear(m, gate)) * linear(m, up)
      u = u + out_gate * linear(gated, down)
    shift, scale = linear(active, self.last).chunk(2, -1)
    return linear(norm(u) * (1 + scale) + shift, self.out)


def _tensor(x):
  import numpy as np
  import torch

  return torch.from_numpy(np.array(x, np.float32))


def _linear(x):
  """A matrix as torch.nn.Linear stores it."""
  return _tensor(x).reshape(x.shape[0], -1).T.contiguous()


def torch_frame(weights, noise, condition, steps, guidance):
  """A function that solves for the latents in torch."""
  import numpy as np
  import torch

  head = TorchHead(weights)
  hidden = torch.cat([_tensor(condition), _tensor(guidance.negative)])
  times = _tensor(steps.time)
  start = _tensor(noise)
  guide = float(guidance.scale)
  names = ('alpha', 'sigma', 'decay', 'gain', 'slope')
  columns = [np.asarray(getattr(steps, name)).tolist() for name in names]
  table = list(zip(*columns))

  def run():
    x = start
    previous = torch.zeros_like(start)
    with torch.inference_mode():
      for time, (alpha, sigma, decay, gain, slope) in zip(times, table):
        both = head.velocity(torch.cat([x, x]), hidden, time)
        positive, negative = both.chunk(2)
        velocity = negative + guide * (positive - negative)
        x0 = alpha * x - sigma * velocity
        extrapolated = x0 + slope * (x0 - previous)
        x = decay * x + gain * extrapolated
        previous = x0
    return x.numpy()

  return run


def random_head(options: Options):
  """(weights, noise, condition, steps, guidance) of a random head, float32, layers as a tuple."""
  import jax
  import jax.numpy as jnp
  import numpy as np

  from core import params as params_lib
  from vibevoice import diffusion
  from vibevoice.config import HeadConfig

  rng = np.random.default_rng(0)
  spec = diffusion.spec(HeadConfig(width=options.width))

  def draw(s):
    scale = np.float32(s.fan_in**0.5)
    return rng.standard_normal(s.shape, np.float32) / scale

  weights = jax.tree.map(draw, spec)
  weights = weights.replace(blocks=params_lib.unstack(weights.blocks))
  weights = jax.tree.map(jnp.asarray, weights)
  noise = rng.standard_normal((options.rows, 64), np.float32)
  hidden = rng.standard_normal((2, options.rows, options.width), np.float32)
  condition, negative = jnp.asarray(hidden)
  guidance = diffusion.Guidance(scale=jnp.float32(1.3), negative=negative)
  steps = diffusion.solver_steps(weights, options.steps)
  return weights, jnp.asarray(noise), condition, steps, guidance


def head_case(options: Options) -> Case:
  """A frame of the diffusion head, float32 and bfloat16 weights, against torch in float32."""
  import jax
  import jax.numpy as jnp
  import numpy as np
  import torch

  from core import params as params_lib
  from kernels import diffusion_head
  from kernels.head import arguments

  torch.set_num_threads(1)
  wide = random_head(options)
  theirs = torch_frame(*wide)
  weights, noise, condition, steps, guidance = wide
  wide = (arguments.streamed(weights), noise, condition, steps, guidance)
  arrays = (weights, noise, condition)
  arrays = params_lib.cast(arrays, jnp.bfloat16)
  steps = steps.replace(time=steps.time.astype(jnp.bfloat16))
  guidance = guidance.replace(negative=guidance.negative.astype(jnp.bfloat16))
  weights, *rows = arrays
  narrow = (arguments.streamed(weights), *rows, steps, guidance)
  run = jax.jit(lambda w, x, h, at, g: diffusion_head(w, x, h, at, guidance=g, implementation='xla'))
  width = options.width
  square = width**2
  count = options.steps
  return Case(
    title=f'width {width}, {options.rows} frames of {count} steps with guidance',
    arms={
      'head (xla), float32': lambda: np.asarray(run(*wide)),
      'torch, published order, float32': theirs,
      'head (xla), bfloat16': lambda: np.asarray(run(*narrow), np.float32),
    },
    bytes=4 * (count * 36 + 15) * square,
    flops=4 * options.rows * count * (36 + 14) * square,
    tolerance=0.1,
  )


def work(options: Options) -> None:
  """Times one operation and prints its figures. Raises ValueError when the arms disagree."""
  pinned.pin()
  import numpy as np

  case = {'tree': tree_case, 'head': head_case}[options.operation](options)
  results = {name: arm() for name, arm in case.arms.items()}
  ours, *_ = results.values()
  largest = np.abs(ours).max()
  for name, result in results.items():
    gap = np.abs(result - ours).max() / largest
    if not gap <= case.tolerance:
      raise ValueError(f'{name} differs by {gap:.1e} of the largest value')
  seconds = fastest(case.arms, repeats=options.repeats)
  floor = case.bytes / bandwidth(repeats=options.repeats)
  print(f'{case.title}: {case.bytes / 1e6:.0f} MB, {case.flops / 1e9:.2f} GFLOP, floor {1e3 * floor:.1f} ms')
  first, *_ = seconds.values()
  for name, least in seconds.items():
    print(f'{name}: {1e3 * least:.1f} ms, {least / first:.2f} of the first; floor is {floor / least:.0%} of it')


def main(argv: Sequence[str]) -> int:
  """Runs the program; returns its exit status."""
  return command.run(argv, __doc__, Options, work)


if __name__ == '__main__':
  sys.exit(main(sys.argv))
