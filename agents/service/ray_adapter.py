"""Dispatchers on the nodes of a Ray cluster, with the same `run`: for tool work that outgrows one host.

A trajectory stays on one node, and so does its kept state. Ray isolates nothing; `agents.sandbox` does, on every node.
"""

import zlib
from typing import Unpack

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from agents.sandbox import Limits, Pool, Result
from agents.service.calls import Options
from agents.service.dispatcher import Dispatcher


class _Node:
  """The dispatcher of one node, an asynchronous actor."""

  def __init__(self, workers: int, limits: Limits, profile: str, queue: int):
    self._settings = (workers, limits, profile, queue)
    self._dispatcher = None

  async def run(self, trajectory: str, code: str, options: Options) -> Result:
    return await self._started().run(trajectory, code, **options)

  async def forget(self, trajectory: str) -> None:
    await self._started().forget(trajectory)

  async def figures(self) -> dict:
    return self._started().figures()

  async def close(self) -> None:
    if self._dispatcher:
      await self._dispatcher.close()

  def _started(self) -> Dispatcher:
    """The dispatcher, made within the actor's event loop."""
    if self._dispatcher is None:
      workers, limits, profile, queue = self._settings
      self._dispatcher = Dispatcher(Pool(workers, limits, profile=profile), queue=queue)
    return self._dispatcher


class RayDispatcher:
  """`await RayDispatcher(workers=8).run(trajectory, code)`; one dispatcher on each living node of the cluster.

  Needs `ray.init` before. An actor that dies is started again by Ray; the call it had is answered with a harness
  result.
  """

  def __init__(self, workers: int = 2, limits: Limits | None = None, *, profile: str = 'sympy', queue: int = 4096):
    nodes = [node['NodeID'] for node in ray.nodes() if node['Alive']]
    actor = ray.remote(_Node)
    self._nodes = [
      actor.options(
        num_cpus=0,
        max_restarts=-1,
        max_concurrency=queue + 2 * workers,
        scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False),
      ).remote(workers, limits or Limits(), profile, queue)
      for node in nodes
    ]

  async def run(self, trajectory: str, code: str, **options: Unpack[Options]) -> Result:
    """As `Dispatcher.run`; an error of the dispatcher comes as it would there."""
    try:
      return await self._node(trajectory).run.remote(trajectory, code, options)
    except ray.exceptions.RayActorError as error:
      return Result('harness', reason=f'the node was lost: {error}'.splitlines()[0])
    except ray.exceptions.RayTaskError as error:
      raise error.cause from error

  async def forget(self, trajectory: str) -> None:
    """Drops the trajectory's kept state."""
    await self._node(trajectory).forget.remote(trajectory)

  async def figures(self) -> list[dict]:
    """The metrics of each node."""
    return [await node.figures.remote() for node in self._nodes]

  async def close(self) -> None:
    """Ends the dispatchers and their actors."""
    for node in self._nodes:
      await node.close.remote()
      ray.kill(node)

  def _node(self, trajectory: str):
    """The node of a trajectory, the same in every process."""
    return self._nodes[zlib.crc32(trajectory.encode()) % len(self._nodes)]
