"""The device side of an engine as one object: weights, pages and tables, and the compiled calls on them.

R slots   C prompt tokens of one call   V vocabulary   D width
"""

from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np

from core import decoder
from core import mesh as mesh_lib
from core.engine import device, layout, pack
from core.engine.scheduling.scheduler import Scheduler
from core.mesh import Share
from core.past.pages import pools


class Programs(Protocol):
  """What the engine asks of a device; a fake one drives the host side without a model.

  dtype: of the embeddings that `prefill` takes.
  """

  dtype: np.dtype

  def update(self, params) -> None:
    """New weights in place of the old."""

  def copy(self, pairs: list[tuple[int, int]]) -> None:
    """Copies pages (source, target)."""

  def prefill(self, prompts: pack.Prompts, features: tuple[np.ndarray, np.ndarray] | None) -> None:
    """Writes keys and values of prompt tokens; features: (embeddings [C, D], bool [C] where they enter)."""

  def set_tables(self, slot: int, allowed: np.ndarray, seen: np.ndarray) -> None:
    """Sets the tokens that a slot may choose and has seen, bool [V] each."""

  def decode(self, plan, slots: device.Slots) -> device.Segment:
    """Decodes a segment: host arrays."""


class DevicePrograms:
  """The programs of a decoder on the devices of a mesh, for the sizes of a scheduler."""

  def __init__(self, params, config: decoder.Config, place: Share, sizes: Scheduler, top_logprobs: int = 0):
    self._config = config
    self._place = place
    self._segment = sizes.segment
    self._top = top_logprobs
    self._slots = len(sizes.slots)
    self._pages = len(sizes.pool.references)
    # On one CPU attention to rows takes a fifth of that to pages, which XLA gathers before it multiplies.
    first_device = place.mesh.devices.flat[0]
    self._copies = place.mesh.size == 1 and first_device.platform == 'cpu'
    self.params = layout.lay(params, config, place)
    self.dtype = np.dtype(params.embed.dtype)
    shape = (self._slots, config.vocab)
    where = mesh_lib.sharding(shape, device.TABLE, place.mesh, layout.RULES)
    blank = lambda: device.Tables(allowed=jnp.ones(shape, bool), seen=jnp.zeros(shape, bool))
    tables = jax.jit(blank, out_shardings=where)
    with jax.set_mesh(place.mesh):
      self.k, self.v = pools(config, self._pages, sizes.page_size, self.dtype, place.mesh, layout.RULES)
      self._tables = tables()

  def update(self, params) -> None:
    """As in `Programs`."""
    self.params = None  # frees the old weights first
    self.params = layout.lay(params, self._config, self._place)

  def copy(self, pairs: list[tuple[int, int]]) -> None:
    """As in `Programs`; at most one pair a slot, and none is fine."""
    nothing = (0, self._pages)
    missing = self._slots - len(pairs)
    padded = np.array(pairs + [nothing] * missing, np.int32)
    source, target = padded.T
    with jax.set_mesh(self._place.mesh):
      self.k, self.v = device.copy(self.k, self.v, source, target)

  def prefill(self, prompts: pack.Prompts, features: tuple[np.ndarray, np.ndarray] | None) -> None:
    """As in `Programs`."""
    tokens = np.maximum(prompts.names, 0).astype(np.int32)
    where = prompts.positions, prompts.page, prompts.offset
    with jax.set_mesh(self._place.mesh):
      self.k, self.v = device.prefill(
        self.params, self.k, self.v, prompts.plan, tokens, *where, *(features or ()), config=self._config
      )

  def set_tables(self, slot: int, allowed: np.ndarray, seen: np.ndarray) -> None:
    """As in `Programs`."""
    with jax.set_mesh(self._place.mesh):
      self._tables = device.set_tables(self._tables, np.int32(slot), allowed, seen)

  def decode(self, plan, slots: device.Slots) -> device.Segment:
    """As in `Programs`."""
    if not self._copies:
      slots = slots.replace(table=None)
    with jax.set_mesh(self._place.mesh):
      self.k, self.v, self._tables, out = device.decode(
        self.params,
        self.k,
        self.v,
        plan,
        slots,
        self._tables,
        config=self._config,
        segment=self._segment,
        top=self._top,
      )
      return jax.tree.map(mesh_lib.to_local, out)
