"""State that lives on the host, such as a data iterator, saved with the arrays of a checkpoint: one file a process."""

import base64
import json
from collections.abc import Mapping
from typing import Any, Protocol


class Stateful(Protocol):
  """Each process keeps its own."""

  def get_state(self) -> Any: ...  # JSON-able, or bytes
  def set_state(self, state: Any) -> None: ...


class HostState:
  """Named `Stateful`s as the one iterator that grain's checkpoint handler writes."""

  def __init__(self, parts: Mapping[str, Stateful]):
    self.parts = parts

  def get_state(self) -> bytes:
    """All states as JSON."""

    def encode(state):
      if isinstance(state, bytes):
        return {'base64': base64.b64encode(state).decode()}
      return {'json': state}

    states = {name: encode(part.get_state()) for name, part in self.parts.items()}
    return json.dumps(states).encode()

  def set_state(self, state: bytes) -> None:
    """Raises ValueError when the states are those of other names."""
    saved = json.loads(state)
    if set(saved) != set(self.parts):
      raise ValueError(f'the checkpoint has host state {sorted(saved)}: expected {sorted(self.parts)}')
    for name, part in self.parts.items():
      held = saved[name]
      part.set_state(base64.b64decode(held['base64']) if 'base64' in held else held['json'])

  def start_prefetch(self) -> None:
    """The handler calls it after set_state; the parts start by themselves."""


class Snapshot:
  """What a `HostState` was earlier, to be written in its place: its parts have moved on."""

  def __init__(self, state: bytes):
    self.state = state

  def get_state(self) -> bytes:
    """As taken."""
    return self.state

  def set_state(self, state: bytes) -> None:
    """Replaces the snapshot."""
    self.state = state
