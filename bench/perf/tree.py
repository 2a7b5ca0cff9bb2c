"""Tree rollouts against flat ones on the segment engine, at equal width.

  python -m bench.perf.tree [--prompts=64 --width=16 --segments=14 --segment=16]
  python -m bench.perf.tree --prompts=16 --width=4,8,16,32 --median=0.25,0.5,1
  python -m bench.perf.tree --model=runs/treepo/model --segment=4 --segments=12

One random decoder, prefix cache on in both arms. Responses stop at lengths drawn from a lognormal; on a path that has
got so far, from the part of it beyond. With --model they are the answers of a trained policy to sums, and stop where it
stops. For each width and median both arms run in turn, once a seed, on one pinned thread: tokens decoded, prefilled and
delivered, requests, CPU seconds. The arithmetic bound is the ratio of decoded tokens: the gain if time went into
decoding alone. Gain in throughput g and time saved s are different numbers: s = 1 - 1/(1 + g).
"""

import dataclasses
import itertools
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

from bench.perf.measuring import report
from bench.perf.measuring.clock import timed
from bench.perf.measuring.pinned import pin
from core.launch import command
from core.launch.fields import field

# jax is imported by the functions that need it: `pin` must come before its first import.

WARM_UP = 99  # seed of the runs that are not counted


@dataclasses.dataclass(frozen=True)
class Options:
  """The program's flags."""

  model: str = field('', "folder of a policy that was trained on sums; '': a random one, and lengths that are drawn")
  prompts: int = field(64, 'queries', low=1)
  prompt: int = field(64, 'tokens of a prompt', low=1)
  width: tuple[int, ...] = field((16,), 'responses to each query, each number a comparison')
  segments: int = field(14, 'segments of the longest response', low=1)
  segment: int = field(16, 'tokens of a segment', low=1)
  branch: int = field(2, 'continuations of each path after a segment', low=1)
  first: int = field(2, 'paths that begin at the prompt', low=1)
  median: tuple[float, ...] = field((0.5,), 'of the lengths, as a share of the longest, each a comparison')
  spread: float = field(0.5, 'standard deviation of the logarithm of the lengths')
  model_width: int = field(512, 'width of the decoder', low=32)
  layers: int = field(4, 'of the decoder', low=1)
  slots: int = field(64, 'rows decoded together', low=1)
  repeats: int = field(1, 'timed runs of each arm, with a seed each', low=1)
  json: bool = field(False, 'print JSON, one object a line')

  @property
  def longest(self) -> int:
    """Tokens of the longest response."""
    return self.segments * self.segment


class Cost(NamedTuple):
  """Of one run of an arm, or of several added up."""

  decoded: int
  prefilled: int
  delivered: int
  requests: int
  seconds: float


def policy_of(options: Options, place: Any) -> tuple[Any, Any]:
  """(policy, weights): the trained one, or a random one over bytes that never stops by itself."""
  import jax

  from core import decoder
  from rl import policy as policies

  if options.model:
    return policies.load(options.model, place)
  policy, _ = policies.load('tiny-text', place)
  config = dataclasses.replace(
    policy.config,
    width=options.model_width,
    mlp_width=3 * options.model_width,
    depth=options.layers,
    max_length=options.prompt + options.longest,
  )
  policy = dataclasses.replace(policy, config=config, stops=())
  return policy, decoder.init(jax.random.key(0), config)


def sampler_of(options: Options) -> Any:
  """An engine whose pages hold a segment each, and that looks four times a segment for paths that have stopped."""
  import jax

  from core import mesh
  from core.engine import EngineSize
  from rl.rollout import Sampler

  place = mesh.make(devices=jax.devices()[:1])
  pages_of_row = -(-(options.prompt + options.longest) // options.segment)
  size = EngineSize(
    slots=options.slots,
    pages=2 * options.slots * pages_of_row,
    page_size=options.segment,
    segment=max(1, options.segment // 4),
  )
  policy, weights = policy_of(options, place)
  return Sampler(policy, weights, size, mesh.Share(place, place))


def prompts_of(options: Options, sampler: Any, seed: int) -> list:
  """Sums for a trained policy, else random prompts."""
  import numpy as np

  from rl.policy.text import TextPrompt
  from rl.tasks import sums_query

  if options.model:
    queries = [sums_query('train', seed, i) for i in range(options.prompts)]
    return [sampler.policy.prompt(query.messages) for query in queries]
  tokens = np.random.default_rng(seed).integers(0, 250, (options.prompts, options.prompt))
  return [TextPrompt(row.astype(np.int32)) for row in tokens]


def lengths_of(options: Options) -> list[Any]:
  """Where responses stop, for each comparison; None where the policy stops them."""
  from bench.perf.kit.trees import Lengths

  if options.model:
    return [None]
  return [Lengths(median * options.longest, options.spread, options.longest) for median in options.median]


def arms_of(options: Options, width: int, lengths: Any) -> dict[str, Any]:
  """Both arms of a comparison, by name."""
  from bench.perf.kit.trees import FlatArm, TreeArm
  from rl.rollout.tree import Branching

  branching = Branching(
    segment=options.segment,
    branch=options.branch,
    first_low=options.first,
    first_high=options.first,
    box='none',
    repetition=False,
  )
  flat = FlatArm(width, options.longest, lengths)
  tree = TreeArm(width, options.longest, lengths, branching)
  return {'flat': flat, 'tree': tree}


def cost(sampler: Any, arm: Any, prompts: Sequence[Any], seed: int) -> Cost:
  """One run on an empty cache."""
  engine = sampler.engine
  engine.scheduler.cache.clear()
  before = dataclasses.replace(engine.stats)
  seconds, made = timed(lambda: arm(sampler, prompts, seed))
  return Cost(
    decoded=engine.stats.decoded - before.decoded,
    prefilled=engine.stats.prefilled - before.prefilled,
    delivered=made.delivered,
    requests=made.requests,
    seconds=seconds,
  )


def compare(options: Options, sampler: Any, width: int, lengths: Any) -> None:
  """Runs both arms in turn and prints what each took, and the gain with its bound."""
  arms = arms_of(options, width, lengths)
  few = prompts_of(options, sampler, WARM_UP)[: max(1, options.slots // width)]
  costs = {}
  for name, arm in arms.items():
    cost(sampler, arm, few, WARM_UP)
    costs[name] = []
  for seed in range(options.repeats):
    prompts = prompts_of(options, sampler, seed)
    for name, arm in arms.items():
      costs[name].append(cost(sampler, arm, prompts, seed))
  totals = {name: Cost(*map(sum, zip(*found))) for name, found in costs.items()}
  setting = f'width {width}'
  if lengths:
    setting = f'{setting}, median {lengths.median:g} of {lengths.longest} tokens, spread {lengths.spread}'
  for name, total in totals.items():
    row = {'what': f'{name}, {setting}'} | total._asdict()
    report.show(row, as_json=options.json)
  report.show({'what': f'gain, {setting}'} | gain(**totals), as_json=options.json)


def gain(flat: Cost, tree: Cost) -> dict[str, float]:
  """How much more trees give in the same time, how much less they take, and how much decoding alone would allow."""
  throughput = flat.seconds / tree.seconds
  bound = flat.decoded / tree.decoded
  return {
    'throughput gained (%)': 100 * (throughput - 1),
    'time saved (%)': 100 * (1 - 1 / throughput),
    'bound of the gain (%)': 100 * (bound - 1),
    'reached': throughput / bound,
  }


def work(options: Options) -> None:
  """Makes every comparison."""
  pin()
  report.show(report.machine(), as_json=options.json)
  sampler = sampler_of(options)
  for width, lengths in itertools.product(options.width, lengths_of(options)):
    compare(options, sampler, width, lengths)


def main(argv: Sequence[str]) -> int:
  """Runs the program; returns its exit status."""
  return command.run(argv, __doc__, Options, work)


if __name__ == '__main__':
  sys.exit(main(sys.argv))
