"""How the sequence in each slot draws and ends: kept as arrays, and written only where a slot has another sequence."""

from collections.abc import Callable

import numpy as np

from core.engine.device import STOPS
from core.engine.sampling import Sampling
from core.engine.scheduling.scheduler import Scheduler
from core.engine.scheduling.sequence import Sequence

SetTables = Callable[[int, np.ndarray, np.ndarray], None]  # of `core.engine.programs.Programs`


class SlotRequests:
  """Stop tokens and `Sampling` of R slots on the host, and their tables over the vocabulary on the device."""

  def __init__(self, slots: int, vocab: int):
    self._vocab = vocab
    self._samples: list[Sequence | None] = [None] * slots
    self._owners: list[object] = [None] * slots  # what each slot's rows of the tables were set for
    self._stops = np.full((slots, STOPS), -1, np.int32)
    self._sampling = {name: value.copy() for name, value in vars(Sampling.of(slots)).items()}
    self._idle = {name: value[0] for name, value in vars(Sampling.of(1)).items()}

  def update(self, s: Scheduler, set_tables: SetTables) -> None:
    """Takes over the samples that entered slots since the last call."""
    for slot, (sample, known) in enumerate(zip(s.slots, self._samples)):
      if sample is not known:
        self._set(slot, sample)
        if sample:
          self._set_tables(slot, sample, s.rows.response(sample).tokens, set_tables)

  def arrays(self) -> tuple[np.ndarray, Sampling]:
    """(stop tokens int32 [R, STOPS], sampling) of the slots; copies, which later calls leave as they are."""
    copied = {name: value.copy() for name, value in self._sampling.items()}
    return self._stops.copy(), Sampling(**copied)

  def _set(self, slot: int, sample: Sequence | None) -> None:
    stops = sample.request.stops[:STOPS] if sample else ()
    values = sample.request.sampling(sample.sample) if sample else self._idle
    self._stops[slot] = -1
    self._stops[slot, : len(stops)] = stops
    for name, value in values.items():
      self._sampling[name][slot] = value
    self._samples[slot] = sample

  def _set_tables(self, slot: int, sample: Sequence, said: np.ndarray, set_tables: SetTables) -> None:
    """Sets allowed and seen tokens of a slot, unless it has them; the device adds new tokens to the seen ones."""
    request = sample.request
    penalised = request.repetition_penalty != 1
    owner = sample if penalised else request.allowed
    if self._owners[slot] is owner:
      return
    allowed = np.ones(self._vocab, bool) if request.allowed is None else request.allowed
    seen = np.zeros(self._vocab, bool)
    if penalised:
      seen[list(request.prompt)] = seen[said] = True
    set_tables(slot, allowed, seen)
    self._owners[slot] = owner
