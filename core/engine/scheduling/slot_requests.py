"""How the sequence in each slot samples and stops, as arrays that are written only when a slot's sequence changes."""

from collections.abc import Callable

import numpy as np

from core.engine.device import STOPS
from core.engine.sampling import Sampling
from core.engine.scheduling.scheduler import Scheduler
from core.engine.scheduling.sequence import Sequence

NO_LIMIT = 2**31 - 1
SetTables = Callable[[int, np.ndarray, np.ndarray], None]  # of `core.engine.programs.Programs`


class SlotRequests:
  """Stop tokens and `Sampling` of R slots on the host, and their tables over the vocabulary on the device."""

  def __init__(self, slots: int, vocab: int):
    self._vocab = vocab
    self._samples: list[Sequence | None] = [None] * slots
    self._owners: list[object] = [None] * slots  # what each slot's rows of the tables were set for
    self._stops = np.full((slots, STOPS), -1, np.int32)
    self._most = np.full(slots, NO_LIMIT, np.int32)
    self._wants_top = np.zeros(slots, bool)
    sampling = vars(Sampling.of(slots))
    self._sampling = {name: value.copy() for name, value in sampling.items()}
    idle = vars(Sampling.of(1))
    self._idle = {name: value[0] for name, value in idle.items()}

  def update(self, s: Scheduler, set_tables: SetTables) -> None:
    """Takes over the samples that entered slots since the last call, and what constraints allow next."""
    for slot, (sample, known) in enumerate(zip(s.slots, self._samples)):
      entered = sample is not known
      if entered:
        self._set(slot, sample)
      if not sample:
        continue
      if entered or sample.constraint:
        said = s.rows.response(sample).tokens
        self._set_tables(slot, sample, said, set_tables)

  def arrays(self) -> tuple[np.ndarray, Sampling, np.ndarray, np.ndarray]:
    """(stop tokens int32 [R, STOPS], sampling, tokens of a segment at most int32 [R], wants_top bool [R]) of the slots.

    Copies, which later calls leave as they are.
    """
    copied = {name: value.copy() for name, value in self._sampling.items()}
    return self._stops.copy(), Sampling(**copied), self._most.copy(), self._wants_top.copy()

  def _set(self, slot: int, sample: Sequence | None) -> None:
    self._samples[slot] = sample
    self._stops[slot] = -1
    self._most[slot] = NO_LIMIT
    self._wants_top[slot] = False
    values = self._idle
    if sample:
      request = sample.request
      stops = request.stops[:STOPS]
      self._stops[slot, : len(stops)] = stops
      if sample.constraint:
        self._most[slot] = 1  # a constraint is asked again after each token
      self._wants_top[slot] = request.top_logprobs > 0
      values = request.sampling(sample.sample)
    for name, value in values.items():
      self._sampling[name][slot] = value

  def _set_tables(self, slot: int, sample: Sequence, said: np.ndarray, set_tables: SetTables) -> None:
    """Sets allowed and seen tokens of a slot, unless it has them; the device adds new tokens to the seen ones."""
    request = sample.request
    constraint = sample.constraint
    penalised = request.repetition_penalty != 1
    owner = request.allowed
    if penalised or constraint:
      owner = sample
    if self._owners[slot] is owner and not constraint:
      return
    allowed = constraint.allowed() if constraint else request.allowed
    if allowed is None:
      allowed = np.ones(self._vocab, bool)
    seen = np.zeros(self._vocab, bool)
    if penalised:
      seen[list(request.prompt)] = True
      seen[said] = True
    set_tables(slot, allowed, seen)
    self._owners[slot] = owner
