"""Who samples when: rollouts and updates in turn on the same devices, or in parallel on two halves of them."""

import concurrent.futures
import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from rl.rollout.collect import Collected
from rl.rollout.sampler import Sampler

Collect = Callable[[int, int], Collected]  # of a rollout's number and its first query's, by the sampler's weights


class Sequential:
  """Each rollout is sampled by the very weights that it updates."""

  lag = 0

  def __init__(self, sampler: Sampler, collect: Collect):
    self._sampler = sampler
    self._collect = collect

  def start(self, weights: Any) -> Any:
    """What the state keeps of older weights: nothing."""
    return ()

  def collect(self, weights: Any, stale: Any, step: int, start: int, more: bool) -> tuple[Collected, Any]:
    """(rollout, what the state is to keep); more: whether another rollout will be asked for."""
    self._sampler.update(weights)
    return self._collect(step, start), ()

  def look(self, weights: Any, evaluate: Callable[[], Any]) -> Any:
    """What `evaluate` returns under these weights."""
    self._sampler.update(weights)
    return evaluate()

  def close(self) -> None:
    """Leaves the sampler to others."""


class Ahead(Sequential):
  """The next rollout is sampled while this one updates, by weights one rollout older, on separate devices.

  The state keeps those weights, so that a run that was stopped samples the same rollout again.
  """

  lag = 1

  def __init__(self, sampler: Sampler, collect: Collect):
    super().__init__(sampler, collect)
    self._thread = concurrent.futures.ThreadPoolExecutor(1)  # of the engine: rollouts and looks one after another
    self._next = None

  def start(self, weights: Any) -> Any:
    """The weights of the first rollout, on the engine's devices."""
    return self._sampler.copy(weights)

  def collect(self, weights: Any, stale: Any, step: int, start: int, more: bool) -> tuple[Collected, Any]:
    """As of `Sequential`; with `more` the next rollout is then being sampled."""
    rollout = (self._next or self._launch(stale, step, start)).result()
    stale = jax.block_until_ready(self._sampler.copy(weights))  # before the update donates them
    self._next = self._launch(stale, step + 1, rollout.next) if more else None
    return dataclasses.replace(rollout, lag=1), stale

  def look(self, weights: Any, evaluate: Callable[[], Any]) -> Any:
    """As of `Sequential`, between two rollouts."""
    return self._thread.submit(super().look, weights, evaluate).result()

  def close(self) -> None:
    """Waits for the rollout under way."""
    self._thread.shutdown()

  def _launch(self, weights, step, start):
    def rollout():
      self._sampler.update(weights)
      return self._collect(step, start)

    return self._thread.submit(rollout)
