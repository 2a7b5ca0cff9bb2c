"""TreePO as a rollout plan: the trees of all queries grow side by side on one engine."""

import collections
import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from core.engine import Completion, Request
from rl.policy import Draw, Trajectory
from rl.rollout.groups import Ask
from rl.rollout.sampler import Sampler
from rl.rollout.tree.growth import Growth, Segment
from rl.rollout.tree.path import Leaf
from rl.rollout.tree.settings import Branching


@dataclasses.dataclass(frozen=True)
class Tree:
  """`width` responses to each prompt that share segments.

  A segment depends on `seed`, the number of its query, its step and its slot there alone, not on other queries. Each
  query goes from step to step as its segments arrive. Trees begin a few at a time, only while slots are idle, and no
  more of them than the cache holds: others would push their pages out, and prefixes would be prefilled again.
  """

  draw: Draw
  branching: Branching
  width: int
  seed: int = 0

  def __call__(self, sampler: Sampler, ask: Ask) -> list[list[Trajectory]]:
    """As of `rl.rollout.Plan`."""
    grown = self.grow(sampler, ask.prompts, ask.numbers)
    return [trajectories(sampler.policy, prompt, growth.leaves) for prompt, growth in zip(ask.prompts, grown)]

  def grow(self, sampler: Sampler, prompts: Sequence[Any], numbers: Sequence[int]) -> list[Growth]:
    """The finished tree of each prompt; numbers: of the queries."""
    engine = sampler.engine
    grown = [self._planted(number) for number in numbers]
    waiting: dict[int, tuple[int, int]] = {}  # request id → (query, slot)
    arrived: dict[int, dict[int, Segment]] = collections.defaultdict(dict)

    def submit(query: int) -> None:
      for slot in range(len(grown[query].active)):
        request = self.request(sampler.policy, prompts[query], numbers[query], grown[query], slot)
        (name,) = engine.submit(request)
        waiting[name] = query, slot

    slots = len(engine.scheduler.slots)
    few = -(-slots // self.width)  # trees that fill the slots once they are as wide as they get
    most = max(few, self._held(sampler, prompts))
    fresh = list(range(len(prompts)))
    while waiting or fresh:
      under_way = len({query for query, _ in waiting.values()})
      if len(waiting) < slots:
        begin = fresh[: min(few, most - under_way)]
        for query in begin:
          submit(query)
        del fresh[: len(begin)]
      for done in engine.step():
        query, slot = waiting.pop(done.id)
        growth = grown[query]
        arrived[query][slot] = self.read(sampler.policy, growth, slot, done)
        if len(arrived[query]) == len(growth.active):
          segments = arrived.pop(query)
          growth.advance([segments[slot] for slot in range(len(segments))])
          submit(query)
    return grown

  def request(self, policy: Any, prompt: Any, number: int, growth: Growth, slot: int) -> Request:
    """What continues an active path by one segment; number: of the query."""
    path = growth.active[slot]
    sequence = np.random.SeedSequence((self.seed, number, growth.step, slot))
    (seed,) = sequence.generate_state(1).tolist()
    draw = dataclasses.replace(self.draw, max_new=growth.limit(path))
    # The engine reads exactly what the training row holds, also after a fallback.
    grown = dataclasses.replace(prompt, tokens=np.concatenate([prompt.tokens, path.tokens]))
    (request,) = policy.requests([grown], draw, samples=1, seeds=[seed % 2**31])
    return request

  def read(self, policy: Any, growth: Growth, slot: int, done: Completion) -> Segment:
    """The segment that the engine made for an active path."""
    return Segment(done.tokens, done.logp, policy.text(done.tokens), done.reason == 'stop')

  def _held(self, sampler: Sampler, prompts: Sequence[Any]) -> int:
    """Trees that the engine's cache holds, even if their paths share nothing but are as long as they can be."""
    longest = max((len(prompt.tokens) for prompt in prompts), default=0) + self.draw.max_new
    return sampler.capacity // (longest * self.width)

  def _planted(self, number: int) -> Growth:
    random = np.random.default_rng((self.seed, number))
    return Growth(self.branching, width=self.width, longest=self.draw.max_new, random=random)


def trajectories(policy: Any, prompt: Any, leaves: Sequence[Leaf]) -> list[Trajectory]:
  """Leaves as trajectories, each with the earlier leaf with which it shares most segments as its parent."""
  found = []
  labels: list[tuple] = []
  for leaf in leaves:
    tokens = leaf.path.tokens
    parent, segment = _origin(labels, leaf.path.labels)
    labels.append(leaf.path.labels)
    found.append(
      Trajectory(
        prompt=prompt,
        tokens=tokens,
        mask=np.ones(len(tokens), bool),
        logp=leaf.path.logp,
        ended=int(tokens[-1]) in policy.stops,
        response=policy.text(tokens),
        parent=parent,
        segment=segment,
      )
    )
  return found


def _origin(earlier: Sequence[tuple], labels: tuple) -> tuple[int, int]:
  """(place of the earlier leaf that shares most segments, how many); -1 and 0 if none shares any."""
  best = -1
  most = 0
  for place, other in enumerate(earlier):
    pairs = zip(other, labels)
    shorter = min(len(other), len(labels))
    shared = next((n for n, (a, b) in enumerate(pairs) if a != b), shorter)
    if shared > most:
      best = place
      most = shared
  return best, most
