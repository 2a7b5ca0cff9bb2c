"""Whisper's decoder: causal self-attention, cross-attention and MLP, each before its own norm.

B rows of audio   R rows of text, a multiple of B: the beams or samples of one audio are adjacent
T tokens   C cache slots   S encoder positions   D width   N heads   H head size   V vocabulary
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from core import tap
from core.encoder import Norm, norm_spec, normalise
from core.layers import gelu
from core.params import Spec, einsum, stacked, unstack, walk, zeros
from interp.whisper.attention import Attention, attend
from interp.whisper.config import NORM_EPS, Config

ATTENTION_SITES = ('q', 'k', 'v', 'scores', 'pattern', 'z', 'attn_out')
CROSS_SITES = tuple(f'cross_{site}' for site in ('attn_in', *ATTENTION_SITES))
SITES = (
  'embed',
  'resid_in',
  'attn_in',
  *ATTENTION_SITES,
  *CROSS_SITES,
  'mlp_in',
  'mlp_out',
  'resid_out',
  'final',
)


@struct.dataclass
class Block:
  """Weights of one layer."""

  attn_norm: Norm
  attn: Attention
  cross_norm: Norm
  cross: Attention
  mlp_norm: Norm
  up: Any  # [D, F]
  up_bias: Any
  down: Any  # [F, D]
  down_bias: Any


@struct.dataclass
class Params:
  """embed [V, D] is also the output matrix."""

  embed: Any
  positions: Any  # [text_length, D], learned
  blocks: Any
  norm: Norm


@struct.dataclass
class Cache:
  """Self-attention's keys and values of earlier tokens: k, v [L, R, N, C, H] or tuples of layers.

  positions: int32 [R, C], -1 in empty slots and at padding. length: int32 [], slots written.
  """

  k: Any
  v: Any
  positions: jax.Array
  length: jax.Array


@struct.dataclass
class Output:
  """hidden: [R, T, D] after the final norm. cache: with the new tokens, if one was given. kept: by site."""

  hidden: jax.Array
  cache: Cache | None
  kept: dict


def spec(c: Config) -> Params:
  """Every weight, once."""
  d = c.width
  n = c.heads
  h = c.head_dim
  f = c.mlp_width

  def bias(*shape):
    return Spec(shape, (None,) * len(shape), zeros)

  into = Spec((d, n, h), ('embed', 'heads', None))
  attention = Attention(
    q=into,
    q_bias=bias(n, h),
    k=into,
    v=into,
    v_bias=bias(n, h),
    o=Spec((n, h, d), ('heads', None, 'embed'), inputs=2),
    o_bias=bias(d),
  )
  norm = norm_spec(d, 'layer')
  block = Block(
    attn_norm=norm,
    attn=attention,
    cross_norm=norm,
    cross=attention,
    mlp_norm=norm,
    up=Spec((d, f), ('embed', 'mlp')),
    up_bias=bias(f),
    down=Spec((f, d), ('mlp', 'embed')),
    down_bias=bias(d),
  )
  return Params(
    embed=Spec((c.vocab, d), ('vocab', 'embed'), inputs=0),
    positions=Spec((c.text_length, d), (None, 'embed'), inputs=0),
    blocks=stacked(block, c.decoder_depth),
    norm=norm,
  )


def for_decoding(params: Params) -> Params:
  """The weights unstacked, which steps of one token are faster with."""
  if isinstance(params.blocks, tuple):
    return params
  return params.replace(blocks=unstack(params.blocks))


def new_cache(config: Config, rows: int, slots: int, dtype, *, unstacked: bool) -> Cache:
  """An empty cache; `unstacked` as the blocks are."""
  shape = (rows, config.heads, slots, config.head_dim)
  if unstacked:
    k = tuple(jnp.zeros(shape, dtype) for _ in range(config.decoder_depth))
  else:
    k = jnp.zeros((config.decoder_depth, *shape), dtype)
  positions = jnp.full((rows, slots), -1, jnp.int32)
  return Cache(k=k, v=jax.tree.map(jnp.copy, k), positions=positions, length=jnp.int32(0))


def cross_keys(params: Params, encoded: jax.Array) -> tuple:
  """(k, v), each [L, B, N, S, H] or a tuple of layers, of encoder states [B, S, D]: once for an audio."""

  def layer(x, i, block):
    p = block.cross
    k = einsum('bsd,dnh->bnsh', x, p.k)
    v = einsum('bsd,dnh->bnsh', x, p.v) + p.v_bias[:, None]
    return x, (k, v)

  return walk(layer, encoded, params.blocks)[1]


def _write(old: jax.Array, new: jax.Array, at: jax.Array, axis: int) -> jax.Array:
  return jax.lax.dynamic_update_slice_in_dim(old, new.astype(old.dtype), at, axis)


def _block(x, p: Block, cross: tuple, cached: tuple | None, mask, length, note):
  """(x, (k, v)) after one layer; k, v [R, N, C, H] hold the new tokens after those of `cached`."""
  x = note('resid_in', x)
  h = note('attn_in', normalise(x, p.attn_norm, NORM_EPS))
  q = einsum('rtd,dnh->rtnh', h, p.attn.q) + p.attn.q_bias
  k = einsum('rtd,dnh->rnth', h, p.attn.k)
  v = einsum('rtd,dnh->rnth', h, p.attn.v) + p.attn.v_bias[:, None]
  if cached is not None:
    k = _write(cached[0], k, length, 2)
    v = _write(cached[1], v, length, 2)
  x = x + attend(p.attn, q, k, v, mask, note, str)
  h = note('cross_attn_in', normalise(x, p.cross_norm, NORM_EPS))
  q = einsum('rtd,dnh->rtnh', h, p.cross.q) + p.cross.q_bias
  x = x + attend(p.cross, q, *cross, None, note, 'cross_{}'.format)
  h = note('mlp_in', normalise(x, p.mlp_norm, NORM_EPS))
  hidden = gelu(einsum('rtd,df->rtf', h, p.up) + p.up_bias)
  x = x + note('mlp_out', einsum('rtf,fd->rtd', hidden, p.down) + p.down_bias)
  return note('resid_out', x), (k, v)


def embed(params: Params, tokens: jax.Array, positions: jax.Array) -> jax.Array:
  """[R, T, D] of int32 tokens and positions [R, T]; padding, at position -1, gets those of position 0."""
  return params.embed[tokens] + params.positions[jnp.maximum(positions, 0)]


def forward(
  params: Params,
  config: Config,
  tokens: jax.Array,
  keys: tuple,
  *,
  positions: jax.Array | None = None,
  cache: Cache | None = None,
  edit: Callable | None = None,
  keep: tuple[str, ...] = (),
) -> Output:
  """Hidden states of int32 tokens [R, T] that attend to the `cross_keys` of B audios.

  positions: int32 [R, T], -1 at padding; by default 0, 1, …. With a cache of C slots the tokens come after those in
  it, and T more must fit. edit, keep: as in `core.tap`; an edit sees the new tokens, at every step that is run.
  """
  tap.check([k for k in keep if not tap.site_of(k).startswith('encoder.')], SITES)
  if positions is None:
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1], dtype=jnp.int32), tokens.shape)
  slots = positions
  length = jnp.int32(0)
  cached = ()
  if cache is not None:
    length = cache.length
    cached = (cache.k, cache.v)
    slots = _write(cache.positions, positions, length, 1)
  key = slots[:, None]
  query = positions[:, :, None]
  sees = (key >= 0) & (key <= query)
  note, kept = tap.taps(edit, keep, 0)
  x = note('embed', embed(params, tokens, positions))

  def layer(x, i, block, k, v, *past):
    note, seen = tap.taps(edit, keep, i)
    x, written = _block(x, block, (k, v), past or None, sees[:, None], length, note)
    return x, (seen, written if past else ())

  per_layer = (*keys, *cached)
  walked = tap.walk_keeping(layer, keep, config.decoder_depth, x, params.blocks, *per_layer)
  x, seen, written = walked
  if cache is not None:
    k, v = written
    cache = Cache(k=k, v=v, positions=slots, length=length + tokens.shape[1])
  note, last = tap.taps(edit, keep, config.decoder_depth - 1)
  hidden = note('final', normalise(x, params.norm, NORM_EPS))
  return Output(hidden=hidden, cache=cache, kept=kept | seen | last)


def resume(
  params: Params,
  config: Config,
  stream: jax.Array,
  keys: tuple,
  start: jax.Array,
  *,
  edit: Callable | None = None,
) -> jax.Array:
  """Hidden states [R, T, D] of a run that starts at layer `start`, int32 [], from an earlier run's input to that layer.

  stream: `resid_in` of the earlier run, [L, R, T, D], whose rows have no padding. keys: `cross_keys`, stacked.
  """
  rows, time = stream.shape[1:3]
  positions = jnp.broadcast_to(jnp.arange(time, dtype=jnp.int32), (rows, time))
  sees = positions[:, None, None] <= positions[:, None, :, None]

  def layer(i, x):
    block, cross = jax.tree.map(lambda leaf: leaf[i], (params.blocks, keys))
    note, _ = tap.taps(edit, (), i)
    return _block(x, block, cross, None, sees, jnp.int32(0), note)[0]

  x = jax.lax.fori_loop(start, config.decoder_depth, layer, stream[start])
  note, _ = tap.taps(edit, (), config.decoder_depth - 1)
  return note('final', normalise(x, params.norm, NORM_EPS))


def logits(params: Params, hidden: jax.Array) -> jax.Array:
  """float32 [..., V] of states [..., D] after the final norm."""
  return jnp.einsum('...d,vd->...v', hidden, params.embed, preferred_element_type=jnp.float32)
