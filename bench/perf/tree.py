"""Tree rollouts against flat ones on the segment engine, at equal width.

  python -m bench.perf.tree [--prompts=64 --width=16 --segments=14 --segment=8 --repeats=3]
  python -m bench.perf.tree --model=runs/treepo/model --segment=2

One random decoder, prefix cache on in both arms. Responses stop at lengths drawn from a lognormal; on a path that has
got so far, from the part of it beyond. With --model they are the answers of a trained policy to sums, and stop where it
stops. Printed for each arm: tokens decoded, prefilled and delivered, requests, CPU seconds on one pinned thread. The
arithmetic bound is the ratio of decoded tokens: the gain if time went into decoding alone. Gain in throughput g and
time saved s are different numbers: s = 1 - 1/(1 + g).
"""

import dataclasses
import sys
import time
from collections.abc import Sequence

from bench.perf.measuring.pinned import pin
from core.launch import command
from core.launch.fields import field

# jax is imported by the functions that need it: `pin` must come before its first import.


@dataclasses.dataclass(frozen=True)
class Options:
  """The program's flags."""

  model: str = field('', "folder of a policy that was trained on sums; '': a random one, and lengths that are drawn")
  prompts: int = field(64, 'queries', low=1)
  prompt: int = field(64, 'tokens of a prompt', low=1)
  width: int = field(16, 'responses to each query', low=2)
  segments: int = field(14, 'segments of the longest response', low=1)
  segment: int = field(8, 'tokens of a segment', low=1)
  branch: int = field(2, 'continuations of each path after a segment', low=1)
  first: int = field(2, 'paths that begin at the prompt', low=1)
  median: float = field(0.5, 'of the lengths, as a share of the longest')
  spread: float = field(0.5, 'standard deviation of the logarithm of the lengths')
  model_width: int = field(128, 'width of the decoder', low=32)
  layers: int = field(4, 'of the decoder', low=1)
  slots: int = field(64, 'rows decoded together', low=1)
  repeats: int = field(3, 'timed runs of each arm, with a seed each', low=1)

  @property
  def longest(self) -> int:
    """Tokens of the longest response."""
    return self.segments * self.segment


@dataclasses.dataclass(frozen=True)
class Arm:
  """One run of one arm."""

  decoded: int
  prefilled: int
  delivered: int
  requests: int
  seconds: float


def drawn(o: Options, key: tuple[int, ...], beyond: int = 0) -> int:
  """Length of a response that is longer than `beyond` tokens; the longest, if the lognormal says more."""
  import numpy as np

  r = np.random.default_rng(key)
  length = 0
  for _ in range(10_000):
    length = int(np.ceil(o.median * o.longest * np.exp(o.spread * r.standard_normal())))
    if length > beyond:
      return min(length, o.longest)
  return o.longest


def policy_of(o: Options, place):
  """(policy, weights): the trained one, or a random one over bytes that never stops by itself."""
  import jax

  from core import decoder
  from rl import policy as policies

  if o.model:
    return policies.load(o.model, place)
  policy, _ = policies.load('tiny-text', place)
  sizes = {'width': o.model_width, 'mlp_width': 3 * o.model_width, 'depth': o.layers}
  config = dataclasses.replace(policy.config, max_length=o.prompt + o.longest, **sizes)
  policy = dataclasses.replace(policy, config=config, stops=())
  return policy, decoder.init(jax.random.key(0), config)


def sampler_of(o: Options):
  """An engine whose pages hold a segment each, and that looks four times a segment for paths that have stopped."""
  import jax

  from core import mesh
  from core.engine import EngineSize
  from rl.rollout import Sampler

  place = mesh.make(devices=jax.devices()[:1])
  pages = 2 * o.slots * -(-(o.prompt + o.longest) // o.segment)
  size = EngineSize(slots=o.slots, pages=pages, page_size=o.segment, segment=max(1, o.segment // 4))
  return Sampler(*policy_of(o, place), size, mesh.Share(place, place))


def prompts_of(o: Options, sampler, seed: int) -> list:
  """Sums for a trained policy, else random prompts."""
  import numpy as np

  from rl.policy.text import TextPrompt
  from rl.tasks import sums_query

  if o.model:
    return [sampler.policy.prompt(sums_query('train', seed, i).messages) for i in range(o.prompts)]
  tokens = np.random.default_rng(seed).integers(0, 250, (o.prompts, o.prompt))
  return [TextPrompt(row.astype(np.int32)) for row in tokens]


def flat(o: Options, sampler, prompts, seed: int) -> tuple[int, int]:
  """(delivered tokens, requests) of responses that are each sampled from the prompt."""
  from rl.policy import Draw

  for number, prompt in enumerate(prompts):
    for place in range(o.width):
      draw = Draw(o.longest if o.model else drawn(o, (seed, number, place)))
      (request,) = sampler.policy.requests([prompt], draw, samples=1, seeds=[number * o.width + place])
      sampler.engine.submit(request)
  done = sampler.engine.run()
  return sum(len(c.tokens) for c in done), len(done)


def tree(o: Options, sampler, prompts, seed: int) -> tuple[int, int]:
  """(delivered tokens, requests) of responses that share segments."""
  from rl.policy import Draw
  from rl.rollout.tree import Branching, Tree

  left = {}  # (a query's tree, slot) → tokens until its path stops

  class Scripted(Tree):
    """Stops where the lengths say."""

    def request(self, policy, prompt, number, growth, slot):
      request = super().request(policy, prompt, number, growth, slot)
      path = growth.active[slot]
      length = drawn(o, (seed, number, growth.step, slot), len(path.tokens))
      left[id(growth), slot] = length - len(path.tokens)
      return dataclasses.replace(request, max_new=min(left[id(growth), slot], growth.limit(path)))

    def read(self, policy, growth, slot, done):
      ended = left[id(growth), slot] == len(done.tokens)
      return super().read(policy, growth, slot, done)._replace(ended=ended)

  options = Branching(
    segment=o.segment, branch=o.branch, first_low=o.first, first_high=o.first, box='none', repetition=False
  )
  plan = (Tree if o.model else Scripted)(Draw(o.longest), options, width=o.width, seed=seed)
  grown = plan.grow(sampler, prompts, range(len(prompts)))
  delivered = sum(len(leaf.path.tokens) for growth in grown for leaf in growth.leaves)
  return delivered, sum(growth.requests for growth in grown)


def timed(o: Options, sampler, arm, seed: int) -> Arm:
  """One run on an empty cache."""
  prompts = prompts_of(o, sampler, seed)
  sampler.engine.scheduler.cache.clear()
  stats = dataclasses.replace(sampler.engine.stats)
  start = time.process_time()
  delivered, requests = arm(o, sampler, prompts, seed)
  seconds = time.process_time() - start
  after = sampler.engine.stats
  return Arm(after.decoded - stats.decoded, after.prefilled - stats.prefilled, delivered, requests, seconds)


def work(o: Options) -> None:
  """Runs both arms in turn and prints."""
  pin()
  sampler = sampler_of(o)
  small = dataclasses.replace(o, prompts=1)
  for arm in (flat, tree):
    timed(small, sampler, arm, 99)  # warms up
  runs = {'flat': [], 'tree': []}
  for seed in range(o.repeats):
    for arm in (flat, tree):
      runs[arm.__name__].append(timed(o, sampler, arm, seed))
  report(o, runs)


def report(o: Options, runs: dict[str, list[Arm]]) -> None:
  """Prints every run, the gain and its bound."""
  lengths = f'lognormal, median {o.median * o.longest:.0f} tokens, spread {o.spread}'
  print(f'lengths: {o.model or lengths}, at most {o.longest}')
  for name, every in runs.items():
    for run in every:
      print(f'{name}: {dataclasses.asdict(run)}')
  total = lambda name, what: sum(getattr(run, what) for run in runs[name])
  bound = total('flat', 'decoded') / total('tree', 'decoded') - 1
  gain = total('flat', 'seconds') / total('tree', 'seconds') - 1
  share = total('tree', 'decoded') / total('tree', 'delivered')
  print(f'decoded / delivered of the tree: {share:.3f}')
  saved = 1 - 1 / (1 + gain)
  print(f'trajectories per CPU second: {100 * gain:+.0f} %, time {-100 * saved:+.0f} %')
  print(f'arithmetic bound: {100 * bound:+.0f} %; reached {(1 + gain) / (1 + bound):.2f} of its throughput')


def main(argv: Sequence[str]) -> int:
  """Runs the program; returns its exit status."""
  return command.run(argv, __doc__, Options, work)


if __name__ == '__main__':
  sys.exit(main(sys.argv))
