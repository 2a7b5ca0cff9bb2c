"""Rows without a model, whose bookkeeping checks what a scheduler asks of them."""

import types

import numpy as np

from tests.vibevoice import tiny

SPEECH = 4  # frames of each row


class Ledger:
  """Each row speaks `SPEECH` frames, whose samples say which prompt it has read."""

  count, longest, piece, smallest = 3, 64, 8, 16

  def __init__(self):
    self.capacity = self.smallest
    self.prompts = [[] for _ in range(self.count)]
    self.limits = [0] * self.count
    self.spoken = [None] * self.count  # None: the row does not speak
    self.restarts = 0

  def restart(self):
    self.restarts += 1
    self.__init__()

  def reserve(self, tokens):
    while self.capacity < tokens:
      self.capacity *= 2

  def settle(self, row, *, scale, seed, limit):
    self.limits[row] = limit

  def read(self, row, tokens, latents, *, first):
    assert 1 <= len(tokens) <= self.piece
    self.prompts[row] = [*([] if first else self.prompts[row]), *tokens]
    assert len(self.prompts[row]) <= self.capacity
    assert len(latents) == np.count_nonzero(tokens == tiny.CONFIG.slot)

  def step(self, enter, leave):
    finished, truncated = np.ones(self.count, bool), np.zeros(self.count, bool)
    for row in range(self.count):
      if enter[row]:
        self.spoken[row] = 0
      elif leave[row]:
        self.spoken[row] = None
      if self.spoken[row] is None:
        continue
      self.spoken[row] += 1
      assert len(self.prompts[row]) + self.spoken[row] <= self.capacity
      truncated[row] = self.spoken[row] == self.limits[row] and self.spoken[row] < SPEECH
      finished[row] = truncated[row] or self.spoken[row] == SPEECH
      if finished[row]:
        self.spoken[row] = None
    frame = types.SimpleNamespace(samples=[p[:1] for p in self.prompts], spoken=np.ones(self.count, bool))
    return frame, types.SimpleNamespace(finished=finished, truncated=truncated, failed=np.zeros(self.count, bool))
