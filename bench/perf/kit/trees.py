"""The arms of `bench.perf.tree`: flat and tree rollouts of one engine, of responses whose lengths are drawn."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from core.engine import Completion, Request
from rl.policy import Draw
from rl.rollout import Sampler
from rl.rollout.tree import Branching, Tree
from rl.rollout.tree.growth import Growth, Segment

TRIES = 10_000  # draws of a length beyond another one, before it is the longest


class Made(NamedTuple):
  """What an arm made: tokens of all responses, and requests to the engine."""

  delivered: int
  requests: int


Arm = Callable[[Sampler, Sequence[Any], int], Made]  # of (sampler, prompts, seed)


@dataclasses.dataclass(frozen=True)
class Lengths:
  """Lengths of responses in tokens: a lognormal, cut at the longest. spread: deviation of the logarithm."""

  median: float
  spread: float
  longest: int

  def draw(self, key: tuple[int, ...], *, beyond: int = 0) -> int:
    """The length of a response that has more than `beyond` tokens."""
    random = np.random.default_rng(key)
    for _ in range(TRIES):
      noise = self.spread * random.standard_normal()
      length = int(np.ceil(self.median * np.exp(noise)))
      if length > beyond:
        return min(length, self.longest)
    return self.longest


@dataclasses.dataclass(frozen=True)
class FlatArm:
  """`width` responses to each prompt, each sampled from the prompt. lengths: None: the policy stops by itself."""

  width: int
  longest: int
  lengths: Lengths | None

  def __call__(self, sampler: Sampler, prompts: Sequence[Any], seed: int) -> Made:
    """As of `Arm`."""
    for number, prompt in enumerate(prompts):
      for place in range(self.width):
        draw = Draw(self._length((seed, number, place)))
        own = number * self.width + place
        (request,) = sampler.policy.requests([prompt], draw, samples=1, seeds=[own])
        sampler.engine.submit(request)
    done = sampler.engine.run()
    delivered = sum(len(completion.tokens) for completion in done)
    return Made(delivered, len(done))

  def _length(self, key: tuple[int, ...]) -> int:
    if self.lengths is None:
      return self.longest
    return self.lengths.draw(key)


@dataclasses.dataclass(frozen=True)
class TreeArm:
  """`width` responses to each prompt that share segments."""

  width: int
  longest: int
  lengths: Lengths | None
  branching: Branching

  def __call__(self, sampler: Sampler, prompts: Sequence[Any], seed: int) -> Made:
    """As of `Arm`."""
    plan = self._plan(seed)
    grown = plan.grow(sampler, prompts, range(len(prompts)))
    leaves = [leaf for growth in grown for leaf in growth.leaves]
    delivered = sum(len(leaf.path.tokens) for leaf in leaves)
    return Made(delivered, sum(growth.requests for growth in grown))

  def _plan(self, seed: int) -> Tree:
    draw = Draw(self.longest)
    if self.lengths is None:
      return Tree(draw, self.branching, self.width, seed)
    return _Stopping(draw, self.branching, self.width, seed, lengths=self.lengths)


@dataclasses.dataclass(frozen=True)
class _Stopping(Tree):
  """Paths stop where the lengths say; one that has got so far stops at a length from beyond."""

  lengths: Lengths = dataclasses.field(kw_only=True)
  left: dict[tuple[int, int], int] = dataclasses.field(default_factory=dict)  # (query's tree, slot) → tokens to go

  def request(self, policy: Any, prompt: Any, number: int, growth: Growth, slot: int) -> Request:
    """As of `Tree`, up to the end of the path."""
    request = super().request(policy, prompt, number, growth, slot)
    path = growth.active[slot]
    key = (self.seed, number, growth.step, slot)
    to_go = self.lengths.draw(key, beyond=len(path.tokens)) - len(path.tokens)
    self.left[id(growth), slot] = to_go
    return dataclasses.replace(request, max_new=min(to_go, growth.limit(path)))

  def read(self, policy: Any, growth: Growth, slot: int, done: Completion) -> Segment:
    """As of `Tree`; a path that has come to its length has ended."""
    ended = self.left[id(growth), slot] == len(done.tokens)
    return super().read(policy, growth, slot, done)._replace(ended=ended)
