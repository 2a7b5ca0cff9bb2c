"""The rollout engine: requests in, samples out, segment by segment on paged, shared caches."""

from rl.engine.engine import Engine, Stats
from rl.engine.request import Completion, Request
from rl.engine.room import Room

__all__ = ['Completion', 'Engine', 'Request', 'Room', 'Stats']
