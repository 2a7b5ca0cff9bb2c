"""Which engine takes which rollout, by the cache it has free (rStar2-Agent, arXiv 2508.20722, §7)."""

from collections.abc import Sequence


class Placement:
  """Reservations of cache tokens on several engines: what has been placed can never overflow its engine.

  capacities: tokens that each engine's cache holds. The sum of reservations of an engine never exceeds its capacity.
  """

  def __init__(self, capacities: Sequence[int]):
    self.capacities = tuple(capacities)
    self.reserved = [0] * len(self.capacities)

  def place(self, tokens: int) -> int | None:
    """Reserves on the engine with the most room and returns its number; None while none has enough.

    Raises ValueError when no engine could ever hold as much.
    """
    if tokens > max(self.capacities):
      raise ValueError(f'a rollout of up to {tokens} tokens does not fit an engine of {max(self.capacities)}')
    free = [capacity - used for capacity, used in zip(self.capacities, self.reserved)]
    best = max(range(len(free)), key=free.__getitem__)
    if free[best] < tokens:
      return None
    self.reserved[best] += tokens
    return best

  def release(self, engine: int, tokens: int) -> None:
    """Gives a reservation back."""
    self.reserved[engine] -= tokens
