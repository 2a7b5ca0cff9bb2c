"""The rollout engine: requests in, samples out, segment by segment on paged, shared caches."""

from core.engine.engine import Engine, Stats
from core.engine.request import Completion, Request
from core.engine.size import Room

__all__ = ['Completion', 'Engine', 'Request', 'Room', 'Stats']
