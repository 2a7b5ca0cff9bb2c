"""Sampling and training of a FLUX.1-shaped transformer: ours against diffusers on torch, on the same random weights.

  python -m bench.perf.flow
  python -m bench.perf.flow --heads=8 --head_dim=32 --side=16

One pinned thread, CPU seconds, the arms interleaved, minimum of the repeats after a warm-up. Both follow the same noise
along the same deterministic schedule to the same latents. Both make the same clipped update (a forward and a backward
pass over the trained steps, gradient clipping, AdamW), and the first gradients have the same norm. Text encoders and
autoencoder are left out. diffusers gets the shortest loop that does it, without its pipeline. The floor is the time of
the matrix products alone, at the rate of a product of 1024 x 1024 in this process; a training step counts as three
passes.
"""

import dataclasses
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from bench.perf import flow_peer
from bench.perf.measuring import pinned
from bench.perf.measuring.clock import fastest
from bench.perf.measuring.rates import products_per_second
from core.launch import command
from core.launch.fields import field

# jax is imported by the functions that need it: `pin` must come before its first import.

GUIDANCE = 3.5
RATE, CLIP = 1e-5, 1e-4


@dataclasses.dataclass(frozen=True)
class Options:
  """The program's flags."""

  heads: int = field(2, 'attention heads', low=1)
  head_dim: int = field(16, 'size of a head, a multiple of 16', low=16)
  joint: int = field(2, 'blocks with two streams', low=1)
  single: int = field(2, 'blocks with one stream', low=1)
  side: int = field(8, 'rows and columns of latents', low=2)
  tokens: int = field(8, 'text tokens', low=1)
  images: int = field(8, 'images sampled at a time', low=1)
  steps: int = field(10, 'denoising steps of an image', low=3)
  trained: int = field(6, 'steps of an image that are trained', low=1)
  repeats: int = field(5, 'timed runs of each arm', low=1)

  def __post_init__(self):
    if self.head_dim % 16 or self.side % 2 or self.trained >= self.steps:
      given = f'head_dim={self.head_dim}, side={self.side}, trained={self.trained}'
      raise ValueError(f'{given}: expected multiples of 16 and of 2, and fewer than {self.steps} steps')

  @property
  def shape(self) -> flow_peer.Shape:
    """Of the transformer."""
    return flow_peer.Shape(self.heads, self.head_dim, self.joint, self.single, text=64, pooled=32)


def converted(net: Any) -> tuple[Any, Any]:
  """(config, params) of ours with the same weights."""
  from rl.flow.files import transformer

  with tempfile.TemporaryDirectory() as folder:
    net.save_pretrained(folder)
    return transformer.load(folder, dtype='float32')


def policy_of(options: Options, config: Any) -> Any:
  """The policy whose prompts are given as arrays."""
  from rl.flow.policy import FlowPolicy, PathOptions

  paths = PathOptions(steps=options.steps, window=options.trained, guidance=GUIDANCE)
  latent = (options.side, options.side, config.channels)
  return FlowPolicy(config=config, options=paths, latent=latent, encode=str, decode=list)


def sampling_arms(options: Options, net: Any, policy: Any, params: Any) -> dict[str, Callable[[], np.ndarray]]:
  """Functions that return the same latents [images, side, side, channels]."""
  import jax

  from rl.flow import sampling

  rng = np.random.default_rng(0)
  normal = lambda *shape: rng.standard_normal(shape).astype(np.float32)
  x = normal(options.images, *policy.latent)
  context = normal(options.images, options.tokens, policy.config.text)
  pooled = normal(options.images, policy.config.pooled)
  schedule = policy.options.schedule

  @jax.jit
  def follow(params, x, context, pooled):
    move = lambda x, time: policy.velocity(params, x, time, context, pooled)
    return sampling.sample(move, x, schedule).states[-1]

  placed = jax.device_put((x, context, pooled))
  return {
    'ours': lambda: np.asarray(follow(params, *placed)),
    'diffusers': flow_peer.sampler(net, x, context, pooled, schedule, GUIDANCE),
  }


def batch_of(options: Options, policy: Any) -> Any:
  """Random steps with random advantages, one group of all images."""
  from rl.flow.policy.trajectory import FlowInputs
  from rl.learning.batch import Batch

  rng = np.random.default_rng(1)
  normal = lambda *shape: rng.standard_normal(shape).astype(np.float32)
  steps = (1, options.images, options.trained)
  states = normal(*steps, *policy.latent)
  inputs = FlowInputs(
    context=normal(1, options.tokens, policy.config.text),
    pooled=normal(1, policy.config.pooled),
    index=np.tile(np.arange(options.trained, dtype=np.int32), (1, options.images, 1)),
    states=states,
    following=states + 0.1 * normal(*states.shape),
    means=states,
  )
  zeros = np.zeros(steps, np.float32)
  return Batch(
    inputs=inputs,
    mask=np.ones(steps, bool),
    sampled=zeros,
    old_logp=zeros,
    fresh=np.ones(1, bool),
    advantages=normal(1, options.images, 1),
  )


def peer_steps(policy: Any, batch: Any) -> flow_peer.Steps:
  """The same steps, a row each."""
  from rl.flow.sampling import Step, deviations

  inputs = batch.inputs
  index = inputs.index.reshape(-1)
  schedule, noise = policy.options.schedule, policy.options.noise
  step = Step.at(schedule.levels, index)
  sigma, length = np.asarray(step.sigma), np.asarray(step.next - step.sigma)
  deviation = np.asarray(deviations(step, noise))
  latents = lambda x: x.reshape(-1, *policy.latent)
  repeated = lambda x: np.repeat(x, len(index), 0)
  return flow_peer.Steps(
    states=latents(inputs.states),
    following=latents(inputs.following),
    time=schedule.times[index],
    sigma=sigma,
    length=length,
    rate=-(deviation**2) / length,
    deviation=deviation,
    advantage=np.repeat(batch.advantages.reshape(-1), inputs.index.shape[-1]),
    context=repeated(inputs.context),
    pooled=repeated(inputs.pooled),
  )


def training_arms(options: Options, net: Any, policy: Any, params: Any) -> dict[str, Callable[[], float]]:
  """Functions that make the same update and return the norm of its gradient."""
  import jax

  from core.training.optim import Optim
  from core.training.steps import init_state
  from rl.learning import update
  from rl.losses import RULES

  batch = batch_of(options, policy)
  tx = update.optimizer(policy, Optim(lr=RATE, schedule='constant'), 1000)
  first = init_state(params, tx)
  places = jax.tree.map(lambda x: x.sharding, first)
  step = update.make_step(update.Pass(policy), RULES['pref_grpo'], tx, places=places)
  held = {'state': first}
  placed = jax.device_put(batch)

  def ours() -> float:
    held['state'], metrics = step(held['state'], None, placed, jax.random.key(0))
    return float(metrics['grad_norm'])

  theirs = flow_peer.trainer(net, peer_steps(policy, batch), guidance=GUIDANCE, lr=RATE, clip=CLIP)
  return {'ours': ours, 'diffusers': theirs}


def operations(options: Options, policy: Any, rows: int) -> float:
  """Floating-point operations of the products of one pass over `rows` images."""

  from core import mesh
  from core.plan import formula
  from rl.flow import plan
  from rl.flow.policy import PathOptions

  once = PathOptions(steps=2, fraction=1.0)
  config = plan.Config(batch=rows, accumulate=1, tokens=options.tokens, paths=once)
  on = mesh.abstract()
  total = 0.0
  for part in plan.parts(config, policy):
    active = sum(weight.active for weight in formula.weights(part, on))
    total += 2 * part.tokens * active + part.attention
  return total


def compare(name: str, arms: dict[str, Callable], *, floor: float, repeats: int, tolerance: float) -> None:
  """Prints CPU seconds of both arms and their ratio. Raises ValueError unless their first results agree."""
  start = time.process_time()
  ours = np.asarray(arms['ours']())
  first = time.process_time() - start
  theirs = np.asarray(arms['diffusers']())
  gap = float(np.abs(ours - theirs).max() / np.abs(theirs).max())
  if not gap <= tolerance:
    raise ValueError(f'{name}: the arms differ by {gap:.1e} of the largest value, expected at most {tolerance:.0e}')
  seconds = fastest(arms, repeats=repeats)
  ratio, most = (seconds['diffusers'] / least for least in (seconds['ours'], floor))
  by_arm = [f'{arm} {1e3 * least:.1f}' for arm, least in seconds.items()]
  times = ', '.join(by_arm)
  print(f'{name}: {times} ms; {ratio:.2f} times faster; floor {1e3 * floor:.1f} ms, {most:.2f} times faster')
  print(f'  first run with compilation {first:.1f} s; the arms differ by {gap:.1e} of the largest value', flush=True)


def work(options: Options) -> None:
  """Builds both arms, compares their results and prints the figures."""
  pinned.pin()
  import torch

  torch.set_num_threads(1)
  net = flow_peer.transformer(options.shape)
  config, params = converted(net)
  policy = policy_of(options, config)
  weights = sum(weight.numel() for weight in net.parameters())
  rate = products_per_second(repeats=options.repeats)
  print(f'{weights / 1e6:.2f} M weights, float32, one thread; products at {rate / 1e9:.0f} GFLOP/s')
  sampled = operations(options, policy, options.images) * options.steps
  trained = 3 * operations(options, policy, options.images * options.trained)
  common = {'repeats': options.repeats}
  compare(
    f'{options.images} images of {options.steps} steps',
    sampling_arms(options, net, policy, params),
    floor=sampled / rate,
    tolerance=1e-3,
    **common,
  )
  compare(
    f'an update on {options.images * options.trained} steps',
    training_arms(options, net, policy, params),
    floor=trained / rate,
    tolerance=1e-3,
    **common,
  )


def main(argv: Sequence[str]) -> int:
  """Runs the program; returns its exit status."""
  return command.run(argv, __doc__, Options, work)


if __name__ == '__main__':
  sys.exit(main(sys.argv))
