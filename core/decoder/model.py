"""The causal language model: Qwen2/2.5, Qwen3, Qwen3-MoE, GPT-OSS and Llama, by configuration data.

B batch   T time   D width   N heads   K key heads   H head size   F feed-forward   V vocabulary
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from core import moe as experts
from core import past as pasts
from core.attention import Keys
from core.attention.subtrees import Subtrees
from core.decoder.params import Attention, Block, Config, Params
from core.layers import gated_mlp, rms_norm, rope_tables, rotate
from core.mesh import RULES, constrain
from core.params import einsum, stack, take
from core.past import Past
from core.past.base import Call
from core.tap import MODEL_SITES, check, taps, walk_keeping


@struct.dataclass
class Output:
  """logits: float32 [B, T, V]. cache: the given one, extended. kept: by site, as in `core.tap`. balance: see
  `core.moe.balance`; 0 without experts."""

  logits: Any
  cache: Any = None
  kept: Any = None
  balance: Any = 0.0


@struct.dataclass
class Hidden:
  """What `forward` returns: `hidden` [B, T, D] after the final norm if there is one, and as in Output."""

  hidden: Any
  cache: Any = None
  kept: Any = None
  balance: Any = 0.0


def embed(params: Params, tokens: jax.Array, rules=RULES) -> jax.Array:
  """Embeddings [B, T, D] of int32 tokens [B, T]."""
  # Each device looks up its own tokens; otherwise XLA looks up everyone's in its slice of the width.
  table = jax.tree.map(lambda t: constrain(t, ('vocab', None), rules), params.embed)
  return constrain(take(table, tokens), ('batch', 'time', None), rules)


@dataclasses.dataclass(frozen=True)
class _Context:
  """What every layer of one call shares."""

  config: Config
  past: Past
  rope: tuple
  positions: jax.Array
  segments: jax.Array | None
  subtrees: Subtrees | None
  rules: dict
  attention: str | None
  edit: Any
  keep: tuple


def _attend(i, p: Attention, x, past, window, ctx: _Context):
  """Self-attention of x [B, T, D]: (output [B, T, D], what the past keeps, kept activations).

  past: this layer's part of it.
  """
  c = ctx.config
  tap, seen = taps(ctx.edit, ctx.keep, i)
  q = _add(einsum('btd,dnh->btnh', x, p.q), p.q_bias)
  k = _add(einsum('btd,dkh->btkh', x, p.k), p.k_bias)
  v = _add(einsum('btd,dkh->btkh', x, p.v), p.v_bias)
  if p.q_norm is not None:
    q = rms_norm(q, p.q_norm, c.norm_eps)
    k = rms_norm(k, p.k_norm, c.norm_eps)
  cos, sin = (t[:, :, None] for t in ctx.rope)
  q = rotate(q, cos, sin)
  k = rotate(k, cos, sin)
  q = constrain(tap('q', q), ('batch', None, 'attn_heads', None), ctx.rules)
  k = tap('k', k)
  v = tap('v', v)
  by_head_k = jnp.swapaxes(k, 1, 2)
  by_head_v = jnp.swapaxes(v, 1, 2)
  new = Keys(by_head_k, by_head_v, ctx.positions, ctx.segments, ctx.subtrees)
  options = {'window': window, 'sinks': p.sinks, 'implementation': ctx.attention, 'rules': ctx.rules}
  if ctx.edit is not None or ctx.keep:
    options['tap'] = tap
  y, kept = ctx.past.attend(past, q, new, **options)
  y = tap('z', y)
  return _add(einsum('btnh,nhd->btd', y, p.o), p.o_bias), kept, seen


def _add(x, bias):
  if bias is None:
    return x
  return x + bias


def _attend_in_layer(i, attn: Attention, x, past, ctx: _Context):
  """`_attend` with the window of layer i."""
  windows = ctx.config.windows
  kinds = [functools.partial(_attend, window=w, ctx=ctx) for w in windows]
  if isinstance(i, int):
    return kinds[i % len(kinds)](i, attn, x, past)
  if len(kinds) == 1:
    return kinds[0](i, attn, x, past)
  # Windows are static inside a kernel, so a scanned layer switches between the few kinds.
  return jax.lax.switch(i % len(kinds), kinds, i, attn, x, past)


def _feed_forward(mlp, x, ctx: _Context):
  """(output [B, T, D], load of the experts [2, E])."""
  c = ctx.config
  if c.moe is None:
    return gated_mlp(x, mlp.gate, mlp.up, mlp.down), jnp.zeros((2, 0))
  y, router, chosen = experts.moe(mlp, x, c.moe, ctx.rules)
  return y, experts.load(router, chosen, ctx.positions >= 0)


def _block(x, i, block: Block, past, ctx: _Context):
  eps = ctx.config.norm_eps
  tap, kept = taps(ctx.edit, ctx.keep, i)
  x = tap('resid_in', constrain(x, ('batch', 'time', None), ctx.rules))
  h = tap('attn_in', rms_norm(x, block.attn_norm, eps))
  y, new, seen = _attend_in_layer(i, block.attn, h, past, ctx)
  x = x + tap('attn_out', y)
  h = tap('mlp_in', rms_norm(x, block.mlp_norm, eps))
  y, load = _feed_forward(block.mlp, h, ctx)
  x = tap('resid_out', x + tap('mlp_out', y))
  return x, (kept | seen, (new, load))


def forward(
  params: Params,
  config: Config,
  x: jax.Array,
  *,
  positions=None,
  segments=None,
  subtrees: Subtrees | None = None,
  cache: Past | int | None = None,
  edit=None,
  keep=(),
  rules=RULES,
  attention: str | None = None,
  remat_policy: str | None = None,
) -> Hidden:
  """The blocks and the final norm, on embeddings x [B, T, D].

  positions: int32 [B, T], -1 at padding; 0..T-1 (after the cache) by default. segments: int32 [B, T], 0 at padding,
  with positions: packed samples do not see each other. subtrees: the rows are packed trees. cache: any
  `core.past.Past`, returned with the new tokens; a number of slots starts a new one. attention: an implementation by
  name. remat_policy: of `core.remat`, to train. Raises ValueError on impossible combinations.
  """
  check(keep, MODEL_SITES)
  past = pasts.of(cache)
  past.check(
    Call(
      rows=x.shape[0],
      tokens=x.shape[1],
      unstacked=isinstance(params.blocks, tuple),
      has_positions=positions is not None,
      has_segments=segments is not None or subtrees is not None,
    )
  )
  if positions is None:
    positions = _next_positions(past, x)
  ctx = _Context(
    config=config,
    past=past,
    rope=rope_tables(positions, config.head_dim, config.rope_theta, config.rope_scaling),
    positions=positions,
    segments=segments,
    subtrees=subtrees,
    rules=rules,
    attention=attention,
    edit=edit,
    keep=tuple(keep),
  )
  return _through_blocks(params, x, ctx, remat_policy)


def _next_positions(past: Past, x: jax.Array) -> jax.Array:
  """int32 [B, T], of new tokens x [B, T, D] that follow the past."""
  rows, tokens, _ = x.shape
  start = past.next_position(rows)
  return jnp.broadcast_to(start + jnp.arange(tokens), (rows, tokens)).astype(jnp.int32)


def _through_blocks(params: Params, x: jax.Array, ctx: _Context, remat_policy: str | None) -> Hidden:
  def layer(x, i, block, past=None):
    return _block(x, i, block, past, ctx)

  depth = ctx.config.depth
  before, first = taps(ctx.edit, ctx.keep, 0)
  after, last = taps(ctx.edit, ctx.keep, depth - 1)
  parts = ctx.past.layers(ctx.positions)
  x = before('embed', x)
  walked = walk_keeping(layer, ctx.keep, depth, x, params.blocks, *parts, remat_policy=remat_policy)
  x, kept, (new, loads) = walked
  if params.norm is not None:
    x = rms_norm(x, params.norm, ctx.config.norm_eps)
  x = after('final', x)
  return Hidden(
    hidden=x,
    cache=ctx.past.append(new, ctx.positions),
    kept=first | kept | last,
    balance=experts.balance(stack(loads)),
  )


def logits(params: Params, config: Config, hidden: jax.Array) -> jax.Array:
  """float32 logits [B, T, V] of final hidden states. Raises ValueError for a stack without an output matrix."""
  if params.head is None:
    if params.embed is None:
      raise ValueError('decoder: this stack has neither a head nor an embedding; it gives hidden states only')
    return einsum('btd,vd->btv', hidden, params.embed).astype(jnp.float32)
  return einsum('btd,dv->btv', hidden, params.head).astype(jnp.float32)


def apply(params: Params, config: Config, tokens: jax.Array, *, rules=RULES, **options: Any) -> Output:
  """Logits of int32 tokens [B, T]; `options` as in `forward`."""
  out = forward(params, config, embed(params, tokens, rules), rules=rules, **options)
  return Output(logits=logits(params, config, out.hidden), cache=out.cache, kept=out.kept, balance=out.balance)
