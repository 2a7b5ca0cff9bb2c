"""The causal language model: Qwen2/2.5, Qwen3, Qwen3-MoE and GPT-OSS, by configuration data.

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
from core.layers import Yarn, gated_mlp, rms_norm, rope_tables, rotate
from core.mesh import RULES, constrain
from core.padding import pad
from core.params import Spec, einsum, ones, stack, stacked, walk, zeros
from core.params import init as draw
from core.past import Past
from core.past.base import Call
from core.remat import remat
from core.tap import check, taps


@dataclasses.dataclass(frozen=True)
class Config:
  """A decoder. `windows` repeats over the layers: None sees everything, n the last n keys."""

  vocab: int
  width: int
  depth: int
  heads: int
  kv_heads: int
  head_dim: int
  mlp_width: int
  norm_eps: float
  rope_theta: float
  yarn: Yarn | None = None
  qkv_bias: bool = False
  out_bias: bool = False
  qk_norm: bool = False  # RMSNorm of each head's q and k before rope
  sinks: bool = False
  windows: tuple[int | None, ...] = (None,)
  moe: experts.Config | None = None
  tied: bool = False  # the head is the embedding table
  max_length: int = 32768

  def __post_init__(self):
    if self.heads % self.kv_heads:
      raise ValueError(f'decoder: heads={self.heads} is not a multiple of kv_heads={self.kv_heads}')
    if self.depth % len(self.windows):
      raise ValueError(f'decoder: depth={self.depth} is not a multiple of the {len(self.windows)} windows')


@struct.dataclass(kw_only=True)
class Attention:
  """Weights of self-attention; None where the family has none."""

  q: Any  # [D, N, H]
  k: Any  # [D, K, H]
  v: Any  # [D, K, H]
  o: Any  # [N, H, D]
  q_bias: Any = None
  k_bias: Any = None
  v_bias: Any = None
  o_bias: Any = None
  q_norm: Any = None  # [H]
  k_norm: Any = None
  sinks: Any = None  # [N]


@struct.dataclass(kw_only=True)
class Mlp:
  """Weights of the gated feed-forward."""

  gate: Any  # [D, F]
  up: Any
  down: Any  # [F, D]


@struct.dataclass(kw_only=True)
class Block:
  """Weights of one layer."""

  attn_norm: Any
  attn: Attention
  mlp_norm: Any
  mlp: Any  # Mlp, or core.moe.Params


@struct.dataclass
class Params:
  """Weights of the decoder."""

  embed: Any  # [V, D]
  blocks: Any  # Block, leaves stacked on a layer axis; or a tuple of Blocks
  norm: Any
  head: Any = None  # [D, V]; None when tied


@struct.dataclass
class Output:
  """logits: float32 [B, T, V]. cache: the given one, extended. kept: site → [L, B, T, D]. balance: see
  `core.moe.balance`; 0 without experts."""

  logits: Any
  cache: Any = None
  kept: Any = None
  balance: Any = 0.0


@struct.dataclass
class Hidden:
  """What `forward` returns: `hidden` [B, T, D] after the final norm, and as in Output."""

  hidden: Any
  cache: Any = None
  kept: Any = None
  balance: Any = 0.0


def _block_spec(c: Config) -> Block:
  d, n, k, h = c.width, c.heads, c.kv_heads, c.head_dim
  bias = lambda on, shape, axes: Spec(shape, axes, zeros) if on else None
  norm = Spec((d,), (None,), ones)
  attn = Attention(
    q=Spec((d, n, h), ('embed', 'heads', None)),
    k=Spec((d, k, h), ('embed', 'kv_heads', None)),
    v=Spec((d, k, h), ('embed', 'kv_heads', None)),
    o=Spec((n, h, d), ('heads', None, 'embed'), inputs=2),
    q_bias=bias(c.qkv_bias, (n, h), ('heads', None)),
    k_bias=bias(c.qkv_bias, (k, h), ('kv_heads', None)),
    v_bias=bias(c.qkv_bias, (k, h), ('kv_heads', None)),
    o_bias=bias(c.out_bias, (d,), (None,)),
    q_norm=Spec((h,), (None,), ones) if c.qk_norm else None,
    k_norm=Spec((h,), (None,), ones) if c.qk_norm else None,
    sinks=bias(c.sinks, (n,), ('heads',)),
  )
  wide = Spec((d, c.mlp_width), ('embed', 'mlp'))
  narrow = Spec((c.mlp_width, d), ('mlp', 'embed'))
  mlp = experts.spec(c.moe, d) if c.moe else Mlp(gate=wide, up=wide, down=narrow)
  return Block(attn_norm=norm, attn=attn, mlp_norm=norm, mlp=mlp)


def spec(config: Config) -> Params:
  """Every weight, once."""
  c = config
  return Params(
    embed=Spec((c.vocab, c.width), ('vocab', 'embed'), inputs=0),
    blocks=stacked(_block_spec(c), c.depth),
    norm=Spec((c.width,), (None,), ones),
    head=None if c.tied else Spec((c.width, c.vocab), ('embed', 'vocab')),
  )


def init(key: jax.Array, config: Config, dtype=jnp.float32) -> Params:
  """Random parameters."""
  return draw(key, spec(config), dtype)


def embed(params: Params, tokens: jax.Array, rules=RULES) -> jax.Array:
  """Embeddings [B, T, D] of int32 tokens [B, T]."""
  # Each device looks up its own tokens; otherwise XLA looks up everyone's in its slice of the width.
  table = constrain(params.embed, ('vocab', None), rules)
  return constrain(table[tokens], ('batch', 'time', None), rules)


@dataclasses.dataclass(frozen=True)
class _Context:
  """What every layer of one call shares."""

  config: Config
  past: Past
  rope: tuple
  positions: jax.Array
  segments: jax.Array | None
  rules: dict
  attention: str | None
  edit: Any
  keep: tuple


def _attend(p: Attention, x, past, window, ctx: _Context):
  """Self-attention of x [B, T, D]: (output [B, T, D], what the past keeps). past: this layer's part of it."""
  c = ctx.config
  q = _add(einsum('btd,dnh->btnh', x, p.q), p.q_bias)
  k = _add(einsum('btd,dkh->btkh', x, p.k), p.k_bias)
  v = _add(einsum('btd,dkh->btkh', x, p.v), p.v_bias)
  if p.q_norm is not None:
    q, k = rms_norm(q, p.q_norm, c.norm_eps), rms_norm(k, p.k_norm, c.norm_eps)
  cos, sin = (t[:, :, None] for t in ctx.rope)
  q, k = rotate(q, cos, sin), rotate(k, cos, sin)
  q = constrain(q, ('batch', None, 'attn_heads', None), ctx.rules)
  new = Keys(jnp.swapaxes(k, 1, 2), jnp.swapaxes(v, 1, 2), ctx.positions, ctx.segments)
  options = {'window': window, 'sinks': p.sinks, 'implementation': ctx.attention, 'rules': ctx.rules}
  y, kept = ctx.past.attend(past, q, new, **options)
  return _add(einsum('btnh,nhd->btd', y, p.o), p.o_bias), kept


def _add(x, bias):
  return x if bias is None else x + bias


def _attend_in_layer(i, attn: Attention, x, past, ctx: _Context):
  """`_attend` with the window of layer i."""
  windows = ctx.config.windows
  kinds = [functools.partial(_attend, window=w, ctx=ctx) for w in windows]
  if isinstance(i, int):
    return kinds[i % len(kinds)](attn, x, past)
  if len(kinds) == 1:
    return kinds[0](attn, x, past)
  # Windows are static inside a kernel, so a scanned layer switches between the few kinds.
  return jax.lax.switch(i % len(kinds), kinds, attn, x, past)


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
  y, new = _attend_in_layer(i, block.attn, h, past, ctx)
  x = x + tap('attn_out', y)
  h = tap('mlp_in', rms_norm(x, block.mlp_norm, eps))
  y, load = _feed_forward(block.mlp, h, ctx)
  x = tap('resid_out', x + tap('mlp_out', y))
  return x, (new, kept, load)


def forward(
  params: Params,
  config: Config,
  x: jax.Array,
  *,
  positions=None,
  segments=None,
  cache: Past | int | None = None,
  edit=None,
  keep=(),
  rules=RULES,
  attention: str | None = None,
  remat_policy: str = 'none',
) -> Hidden:
  """The blocks and the final norm, on embeddings x [B, T, D].

  positions: int32 [B, T], -1 at padding; 0..T-1 (after the cache) by default. segments: int32 [B, T], 0 at padding,
  with positions: packed samples do not see each other. cache: any `core.past.Past`, returned with the new tokens; a
  number of slots starts a new one. attention: an implementation by name. Raises ValueError on impossible
  combinations.
  """
  check(keep)
  b, t, _ = x.shape
  past = pasts.of(cache)
  past.check(
    Call(
      rows=b,
      tokens=t,
      unstacked=isinstance(params.blocks, tuple),
      has_positions=positions is not None,
      has_segments=segments is not None,
    )
  )
  if positions is None:
    start = past.next_position(b)
    positions = jnp.broadcast_to(start + jnp.arange(t), (b, t)).astype(jnp.int32)
  ctx = _Context(
    config=config,
    past=past,
    rope=rope_tables(positions, config.head_dim, config.rope_theta, config.yarn),
    positions=positions,
    segments=segments,
    rules=rules,
    attention=attention,
    edit=edit,
    keep=tuple(keep),
  )

  def layer(x, i, block, past=None):
    return _block(x, i, block, past, ctx)

  x, (new, kept, loads) = walk(remat(layer, remat_policy), x, params.blocks, *past.layers(positions))
  return Hidden(
    hidden=rms_norm(x, params.norm, config.norm_eps),
    cache=past.append(new, positions),
    kept={site: stack(a) for site, a in kept.items()},
    balance=experts.balance(stack(loads)),
  )


def logits(params: Params, config: Config, hidden: jax.Array) -> jax.Array:
  """float32 logits [B, T, V] of final hidden states."""
  if params.head is None:
    return einsum('btd,vd->btv', hidden, params.embed).astype(jnp.float32)
  return einsum('btd,dv->btv', hidden, params.head).astype(jnp.float32)


def log_probs(
  params: Params,
  config: Config,
  hidden: jax.Array,
  targets: jax.Array,
  *,
  temperature: float = 1.0,
  chunk: int = 1024,
  rules=RULES,
) -> tuple[jax.Array, jax.Array]:
  """(log-probability of `targets`, entropy of the distribution), float32 [B, T], of logits over a temperature.

  The temperature divides float32 logits, as in the engine: scaling bfloat16 hidden states would round them once more.
  Time is cut into chunks of at most `chunk` tokens, recomputed in the backward pass, so the [B, T, V] logits are never
  held whole. Chunks are strided over time, so each chunk stays sharded over the sequence axis.
  """
  if isinstance(params.head, jax.Array):  # gathered over the batch axes once, not in every chunk
    params = params.replace(head=constrain(params.head, (None, 'vocab'), rules))

  @jax.checkpoint
  def one(args):
    h, y = args
    z = logits(params, config, constrain(h, ('batch', 'time', None), rules)) / temperature
    z = constrain(z, ('batch', 'time', 'vocab'), rules)
    norm = jax.nn.logsumexp(z, -1)
    chosen = jnp.take_along_axis(z, y[..., None], -1)[..., 0]
    return chosen - norm, norm - jnp.sum(jax.nn.softmax(z, -1) * z, -1)

  b, t = targets.shape
  if t <= chunk:
    return one((hidden, targets))
  count = -(-t // chunk)

  def split(x):
    x = pad(jnp.asarray(x), count * chunk, axis=1)
    return jnp.moveaxis(x.reshape(b, chunk, count, *x.shape[2:]), 2, 0)

  out = jax.lax.map(one, (split(hidden), split(targets)))
  return jax.tree.map(lambda a: jnp.moveaxis(a, 0, 2).reshape(b, -1)[:, :t], out)


def apply(params: Params, config: Config, tokens: jax.Array, *, rules=RULES, **options: Any) -> Output:
  """Logits of int32 tokens [B, T]; `options` as in `forward`."""
  out = forward(params, config, embed(params, tokens, rules), rules=rules, **options)
  return Output(logits=logits(params, config, out.hidden), cache=out.cache, kept=out.kept, balance=out.balance)
