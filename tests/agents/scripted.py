"""An engine that says what it is told to, for tests of the loop around it."""

import types

import numpy as np

from core.engine import Completion


class ScriptedEngine:
  """Answers turn k of a conversation with `say(request, k)`, token ids; `k` counts the stop tokens in the prompt."""

  def __init__(self, say, stop_id, *, pages=100_000, page_size=16):
    self._say, self._stop = say, stop_id
    self.scheduler = types.SimpleNamespace(page_size=page_size, pool=types.SimpleNamespace(references=[0] * pages))
    self._queue, self._next, self.requests, self.most = [], 0, [], 0

  idle = property(lambda self: not self._queue)

  def submit(self, request):
    self.requests.append(request)
    self._queue.append((self._next, request))
    self._next += 1
    self.most = max(self.most, len(self._queue))
    return [self._next - 1]

  def cancel(self, id):
    self._queue = [(i, r) for i, r in self._queue if i != id]

  def step(self):
    done, self._queue = self._queue, []
    return [self._complete(id, request) for id, request in done]

  def _complete(self, id, request):
    ids = list(self._say(request))[: request.max_new]
    reason = 'stop' if ids[-1] == self._stop else 'length'
    return Completion(
      id, np.array(ids, np.int32), -0.5 * np.ones(len(ids), np.float32), np.zeros(len(ids), np.int32), reason
    )
