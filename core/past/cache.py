"""A contiguous key-value cache as a value.

L layers   B rows   T new tokens   K key heads   S slots   H head size
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from core.attention import Keys, attention
from core.mesh import partition, partitioning
from core.padding import pad
from core.past.base import Call


@struct.dataclass
class Cache:
  """k, v: [L, B, K, S, H]; with unstacked blocks, tuples of k [B, K, H, S] and v [B, K, S, H].

  A scanned layer only reads it, and one write follows the scan: carrying whole caches through the scan would cost a
  second cache. An unstacked layer writes its tokens first and then attends, because XLA copies a buffer that is read
  before it is written again. Its keys are in columns, which multiply twice as fast on CPU.

  positions: int32 [B, S], -1 in empty slots and at padding, so rows may be padded on either side.
  length: slots written, int32 [] if the same for all rows. Or int32 [B] (`core.past.rows`): each row then has its own
  end, and a token at position -1 is neither written nor counted; such tokens come last in their row.
  """

  k: Any
  v: Any
  positions: jax.Array
  length: jax.Array

  @property
  def capacity(self) -> int:
    """Number of slots."""
    return self.positions.shape[1]

  def check(self, call: Call) -> None:
    """Raises ValueError for segments, and for more tokens than free slots if `length` is concrete."""
    _check_slots(call, self.capacity)
    if isinstance(self.length, jax.core.Tracer):
      return  # under `jit`, `attend` makes the output NaN instead
    free = self.capacity - int(jnp.max(self.length))
    if call.tokens > free:
      raise ValueError(f'{call.tokens} tokens do not fit a cache of {self.capacity} slots, of which {free} are free')

  def next_position(self, rows: int) -> jax.Array:
    """int32 [B, 1]."""
    return self.positions.max(1, keepdims=True) + 1

  def keys(self, positions: jax.Array | None = None) -> Any:
    """`Keys` over the layers, stacked or a tuple; int32 `positions` [B, T] count as written, if given."""
    if not isinstance(self.k, tuple):
      layers = self.k.shape[0]
      by_layer = jnp.broadcast_to(self.positions, (layers, *self.positions.shape))
      return Keys(self.k, self.v, by_layer)
    held = self.positions
    if positions is not None:
      at = self._slots_of(positions)
      held = _put(held, positions, at, axis=1, rows=0)
    return tuple(Keys(k, v, held, columns=True) for k, v in zip(self.k, self.v))

  def layers(self, positions: jax.Array) -> tuple:
    """`Keys` of each layer; positions: int32 [B, T], of the new tokens."""
    return (self.keys(positions),)

  def attend(self, layer: Keys, q: jax.Array, new: Keys, **options: Any) -> tuple[jax.Array, Keys]:
    """As `Past.attend`; keeps the new keys of a scanned layer, the written buffers of an unstacked one.

    The output is NaN if the new tokens do not fit.
    """
    if layer.columns:
      at = self._slots_of(new.positions)
      written = _write(layer, new, at)
      runs = (written,)
      kept = Keys(written.k, written.v, columns=True)
    else:
      runs = (layer, new)
      kept = Keys(new.k, new.v)
    out = attention(q, runs, positions=new.positions, **options)
    # A write past the last slot overwrites it or is dropped, so the output must not pass for a valid one.
    length = self.length + self._counted(new.positions)
    is_full = length > self.capacity
    is_full = is_full.reshape(-1, 1, 1, 1)
    return jnp.where(is_full, jnp.nan, out), kept

  def append(self, kept: Keys, positions: jax.Array) -> 'Cache':
    """The cache with T more tokens at int32 `positions` [B, T], -1 at padding."""
    at = self._slots_of(positions)
    if not kept.columns:
      stacked = Keys(self.k, self.v)
      kept = _write(stacked, kept, at)
    held = _put(self.positions, positions, at, axis=1, rows=0)
    length = self.length + self._counted(positions)
    return Cache(k=kept.k, v=kept.v, positions=held, length=length)

  def _counted(self, positions: jax.Array) -> jax.Array | int:
    """How many slots tokens at `positions` [B, T] take, as `length`."""
    if self.length.ndim == 0:
      return positions.shape[1]
    return jnp.sum(positions >= 0, 1, dtype=jnp.int32)

  def _slots_of(self, positions: jax.Array) -> jax.Array:
    """Where tokens at `positions` [B, T] are written.

    The first slot, int32 []; or, with a length for each row, a slot for each token, int32 [B, T], S for padding.
    """
    if self.length.ndim == 0:
      return self.length
    index = jnp.arange(positions.shape[1])
    following = self.length[:, None] + index
    is_padding = positions < 0
    return jnp.where(is_padding, self.capacity, following)


@struct.dataclass
class Start:
  """No earlier tokens; the new ones start a `Cache` of `slots`. Attention does not read the empty slots."""

  slots: int = struct.field(pytree_node=False)

  def check(self, call: Call) -> None:
    """Raises ValueError for segments, and for more tokens than slots."""
    _check_slots(call, self.slots)

  def next_position(self, rows: int) -> int:
    """Positions start at 0."""
    return 0

  def layers(self, positions: jax.Array) -> tuple:
    """Layers have no cache yet."""
    return ()

  def attend(self, layer: None, q: jax.Array, new: Keys, **options: Any) -> tuple[jax.Array, Keys]:
    """As `Past.attend`."""
    out = attention(q, (new,), positions=new.positions, **options)
    return out, Keys(new.k, new.v)

  def append(self, kept: Keys, positions: jax.Array) -> Cache:
    """The cache of the new tokens: k, v [L, B, K, T, H], or tuples of [B, K, T, H]."""
    if isinstance(kept.k, tuple):
      columns = [jnp.swapaxes(x, 2, 3) for x in kept.k]
      k = tuple(pad(x, self.slots, axis=3) for x in columns)
      v = tuple(pad(x, self.slots, axis=2) for x in kept.v)
    else:
      k = pad(kept.k, self.slots, axis=3)
      v = pad(kept.v, self.slots, axis=3)
    held = pad(positions, self.slots, axis=1, fill=-1)
    length = jnp.int32(positions.shape[1])
    return Cache(k=k, v=v, positions=held, length=length)


def new(config, batch: int, capacity: int, dtype, *, unstacked: bool = False) -> Cache:
  """An empty cache for a decoder `config` (depth, kv_heads, head_dim)."""
  rows = (batch, config.kv_heads, capacity, config.head_dim)
  columns = (batch, config.kv_heads, config.head_dim, capacity)
  if unstacked:
    k = tuple(jnp.zeros(columns, dtype) for _ in range(config.depth))
    v = tuple(jnp.zeros(rows, dtype) for _ in range(config.depth))
  else:
    k = jnp.zeros((config.depth, *rows), dtype)
    v = jnp.zeros((config.depth, *rows), dtype)
  positions = jnp.full((batch, capacity), -1, jnp.int32)
  return Cache(k=k, v=v, positions=positions, length=jnp.int32(0))


@functools.partial(jax.jit, static_argnames='slots')
def truncated(cache: Cache, length: jax.Array, *, slots: int) -> Cache:
  """The first `length` positions (int32 []) of a cache of one row, in order and without padding, in `slots` slots."""
  held = cache.positions[0]
  is_padding = held < 0
  after_all = jnp.iinfo(jnp.int32).max
  sortable = jnp.where(is_padding, after_all, held)
  by_position = jnp.argsort(sortable)
  order = pad(by_position[:slots], slots, axis=0)
  axis = 2 if isinstance(cache.k, tuple) else 3  # of the slots in v, and in stacked k
  k = jax.tree.map(lambda x: jnp.take(x, order, axis=3), cache.k)
  v = jax.tree.map(lambda x: jnp.take(x, order, axis=axis), cache.v)
  slot = jnp.arange(slots, dtype=jnp.int32)
  positions = jnp.where(slot < length, slot, -1)
  return Cache(k=k, v=v, positions=positions[None], length=jnp.int32(length))


def _check_slots(call: Call, slots: int) -> None:
  if call.has_segments:
    raise ValueError('segments and cache cannot be combined: a packed row is not continued')
  if call.tokens > slots:
    raise ValueError(f'{call.tokens} tokens do not fit a cache of {slots} slots')


def _put(old: jax.Array, fresh: jax.Array, at: jax.Array, *, axis: int, rows: int) -> jax.Array:
  """`old` with `fresh` written along `axis`: from slot `at` [] on, or at the slots [B, T] of each row.

  rows: the axis of rows.
  """
  fresh = fresh.astype(old.dtype)
  if at.ndim == 0:
    return jax.lax.dynamic_update_slice_in_dim(old, fresh, at, axis)
  if at.shape[1] == 1:
    return _put_one(old, fresh, at[:, 0], axis=axis, rows=rows)
  # The axis of rows comes before that of slots, and `vmap` takes it away.
  before = (slice(None),) * (axis - 1)

  def put_row(old, fresh, at):
    return old.at[(*before, at)].set(fresh, mode='drop')

  return jax.vmap(put_row, in_axes=(rows, rows, 0), out_axes=rows)(old, fresh, at)


def _put_one(old: jax.Array, fresh: jax.Array, at: jax.Array, *, axis: int, rows: int) -> jax.Array:
  """`old` with `fresh`, one token a row, written at the slots [B]; S drops it. On a mesh each device writes its rows.

  XLA would gather the whole cache for updates of single rows that are sharded.
  """
  by_row = functools.partial(_put_rows, axis=axis, rows=rows)
  scattered = functools.partial(_scatter_rows, axis=axis, rows=rows)
  put = functools.partial(jax.lax.platform_dependent, tpu=by_row, default=scattered)
  mesh = partitioning()
  if mesh is None:
    return put(old, fresh, at)
  axes = [None] * old.ndim
  axes[rows] = 'batch'
  if old.ndim > 2:  # not the positions [B, S]
    axes[rows + 1] = 'kv_heads'
  buffer = partition(old.shape, tuple(axes), mesh)
  by_batch = jax.P(buffer[rows])
  in_specs = (buffer, buffer, by_batch)
  put = jax.shard_map(put, in_specs=in_specs, out_specs=buffer, check_vma=False)
  return put(old, fresh, at)


def _put_rows(old: jax.Array, fresh: jax.Array, at: jax.Array, *, axis: int, rows: int) -> jax.Array:
  """Row by row: for a scatter, XLA for TPU copies the whole cache twice, into another layout and back."""
  capacity = old.shape[axis]
  for row in range(old.shape[rows]):
    slot = at[row]
    start = [0] * old.ndim
    start[rows] = row
    start[axis] = jnp.minimum(slot, capacity - 1)
    one = jax.lax.slice_in_dim(fresh, row, row + 1, axis=rows)
    present = jax.lax.dynamic_slice(old, start, one.shape)
    written = jnp.where(slot < capacity, one, present)
    old = jax.lax.dynamic_update_slice(old, written, start)
  return old


def _scatter_rows(old: jax.Array, fresh: jax.Array, at: jax.Array, *, axis: int, rows: int) -> jax.Array:
  """All rows by one scatter."""
  index: list = [slice(None)] * old.ndim
  index[rows] = jnp.arange(old.shape[rows])
  index[axis] = at
  rows_first = jnp.moveaxis(fresh, rows, 0)
  token_axis = axis if axis > rows else axis + 1
  one = rows_first.take(0, token_axis)
  return old.at[tuple(index)].set(one, mode='drop')


def _write(old: Keys, fresh: Keys, at: jax.Array) -> Keys:
  """`fresh` (in rows) written into `old` at the slots `at`, as in `_put`."""
  dims = old.v.ndim
  slot_axis = dims - 2
  put = functools.partial(_put, at=at, rows=dims - 4)
  if old.columns:
    columns = jnp.swapaxes(fresh.k, -1, -2)
    k = put(old.k, columns, axis=slot_axis + 1)
  else:
    k = put(old.k, fresh.k, axis=slot_axis)
  v = put(old.v, fresh.v, axis=slot_axis)
  return old.replace(k=k, v=v)
