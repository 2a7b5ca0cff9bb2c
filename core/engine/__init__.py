"""The segment engine: requests in, samples out, segment by segment on paged, shared caches."""

from core.engine.engine import Engine, Stats
from core.engine.features import Features
from core.engine.request import Completion, QueueFull, Request
from core.engine.size import EngineSize

__all__ = ['Completion', 'Engine', 'EngineSize', 'Features', 'QueueFull', 'Request', 'Stats']
