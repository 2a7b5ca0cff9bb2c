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
from core.attention import Keys, attention
from core.layers import Yarn, gated_mlp, rms_norm, rope_tables, rotate
from core.mesh import RULES, constrain
from core.padding import pad
from core.params import Spec, einsum, ones, stack, stacked, walk, zeros
from core.params import init as draw
from core.past import cache as kv
from core.past import pages
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


@struct.dataclass
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


@struct.dataclass
class Mlp:
  """Weights of the gated feed-forward."""

  gate: Any  # [D, F]
  up: Any
  down: Any  # [F, D]


@struct.dataclass
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
  """logits: float32 [B, T, V]. cache: the given one, extended. kept: site → [L, B, T, D]. aux: balance loss."""

  logits: Any
  cache: Any = None
  kept: Any = None
  aux: Any = 0.0


@struct.dataclass
class Hidden:
  """What `forward` returns: `hidden` [B, T, D] after the final norm, and as in Output."""

  hidden: Any
  cache: Any = None
  kept: Any = None
  aux: Any = 0.0


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
  mlp = experts.spec(c.moe, d) if c.moe else Mlp(wide, wide, Spec((c.mlp_width, d), ('mlp', 'embed')))
  return Block(norm, attn, norm, mlp)


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


def embed(params: Params, tokens: jax.Array) -> jax.Array:
  """Token embeddings [B, T, D]."""
  # A device looks up its own tokens; left alone, XLA looks up everyone's in its own slice of the width.
  table = constrain(params.embed, ('vocab', None))
  return constrain(table[tokens], ('batch', 'time', None))


def _attend(p: Attention, x, past: Keys | pages.Layer | None, ctx, window, c: Config):
  """Self-attention of x [B, T, D]: (output [B, T, D], what the cache is to keep)."""
  plus = lambda y, b: y if b is None else y + b
  q = plus(einsum('btd,dnh->btnh', x, p.q), p.q_bias)
  k = plus(einsum('btd,dkh->btkh', x, p.k), p.k_bias)
  v = plus(einsum('btd,dkh->btkh', x, p.v), p.v_bias)
  if p.q_norm is not None:
    q, k = rms_norm(q, p.q_norm, c.norm_eps), rms_norm(k, p.k_norm, c.norm_eps)
  cos, sin = (t[:, :, None] for t in ctx.rope)
  q, k = rotate(q, cos, sin), rotate(k, cos, sin)
  q = constrain(q, ('batch', None, 'attn_heads', None), ctx.rules)
  k, v = jnp.swapaxes(k, 1, 2), jnp.swapaxes(v, 1, 2)
  y, new = _look(q, k, v, past, ctx, window, p.sinks)
  return plus(einsum('btnh,nhd->btd', y, p.o), p.o_bias), new


def _look(q, k, v, past, ctx, window, sinks):
  if isinstance(past, pages.Layer):
    return past.attend(q, k, v, window=window, sinks=sinks)
  fresh = Keys(k, v, ctx.positions, ctx.segments)
  runs, new = ((past.repeat(ctx.branches), fresh), None) if ctx.branches else kv.extend(past, fresh, ctx.start)
  return attention(
    q,
    runs,
    positions=ctx.positions,
    segments=ctx.segments,
    window=window,
    sinks=sinks,
    implementation=ctx.attention,
    rules=ctx.rules,
  ), new


@dataclasses.dataclass(frozen=True)
class _Context:
  """What every layer of one call shares."""

  rope: tuple
  positions: jax.Array
  segments: jax.Array | None
  start: jax.Array | int  # the cache slot of the first token
  branches: int  # rows that go on from one row of a prefix; 0 without one
  rules: dict
  attention: str | None
  edit: Any
  keep: tuple


def _block(x, i, block: Block, past, ctx: _Context, c: Config):
  tap, kept = taps(ctx.edit, ctx.keep, i)
  x = tap('resid_in', constrain(x, ('batch', 'time', None), ctx.rules))
  h = tap('attn_in', rms_norm(x, block.attn_norm, c.norm_eps))
  # Windows are static inside a kernel: a scanned layer switches between the few kinds there are.
  kinds = [functools.partial(_attend, ctx=ctx, window=w, c=c) for w in c.windows]
  if len(kinds) == 1 or isinstance(i, int):
    y, new = kinds[i % len(kinds) if isinstance(i, int) else 0](block.attn, h, past)
  else:
    y, new = jax.lax.switch(i % len(kinds), kinds, block.attn, h, past)
  x = x + tap('attn_out', y)
  h = tap('mlp_in', rms_norm(x, block.mlp_norm, c.norm_eps))
  aux = jnp.float32(0)
  if c.moe:
    y, logits, chosen = experts.moe(block.mlp, h, c.moe, ctx.rules)
    if c.moe.aux_coef:
      aux = experts.balance(logits, chosen, ctx.positions >= 0)
  else:
    y = gated_mlp(h, block.mlp.gate, block.mlp.up, block.mlp.down)
  x = tap('resid_out', x + tap('mlp_out', y))
  return x, (new, kept, aux)


def forward(
  params: Params,
  config: Config,
  x: jax.Array,
  *,
  positions=None,
  segments=None,
  cache=None,
  prefix=None,
  edit=None,
  keep=(),
  rules=RULES,
  attention=None,
  remat_policy='none',
) -> Hidden:
  """The blocks and the final norm, on embeddings x [B, T, D].

  positions: int32 [B, T], -1 at padding; 0..T-1 (after the cache) by default. segments: int32 [B, T], 0 at padding:
  packed samples do not see each other; not together with a cache. cache: a `core.past.cache.Cache`, attended to and
  returned extended; a number of slots starts a new one; or `core.past.pages.Pages`, with one token a row at given
  positions, beside unstacked blocks. prefix: a `core.past.cache.Cache` of fewer rows, each of which B/rows rows of x
  in turn go on from; attended to and never copied whole, nor extended. Raises ValueError on impossible combinations.
  """
  check(keep)
  b, t, _ = x.shape
  if segments is not None and cache is not None:
    raise ValueError('segments and cache cannot be combined: a packed row is not continued')
  if prefix is not None and (cache is not None or segments is not None or b % prefix.positions.shape[0]):
    raise ValueError(
      f'a prefix of {prefix.positions.shape[0]} rows takes a multiple of them (got {b}), no cache and no segments'
    )
  paged = isinstance(cache, pages.Pages)
  if paged and (t != 1 or positions is None or not isinstance(params.blocks, tuple)):
    raise ValueError(f'a paged cache takes one token a row (got {t}), positions, and unstacked blocks')
  past = cache if isinstance(cache, kv.Cache) else None
  slots = past.capacity if past else None if paged else cache
  if slots is not None and t > slots:
    raise ValueError(f'{t} tokens do not fit a cache of {slots} slots')
  branches = b // prefix.positions.shape[0] if prefix else 0
  if positions is None:
    before = past or prefix
    start = jnp.repeat(before.positions.max(1, keepdims=True) + 1, branches or 1, 0) if before else 0
    positions = jnp.broadcast_to(start + jnp.arange(t), (b, t)).astype(jnp.int32)
  rope = rope_tables(positions, config.head_dim, config.rope_theta, config.yarn)
  ctx = _Context(rope, positions, segments, past.length if past else 0, branches, rules, attention, edit, tuple(keep))

  def layer(x, i, block, past=None):
    return _block(x, i, block, past, ctx, config)

  held = past.layers(positions) if past else (prefix or cache).layers() if prefix or paged else None
  xs = () if held is None else (held,)
  x, (new, kept, aux) = walk(remat(layer, remat_policy), x, params.blocks, *xs)
  x = rms_norm(x, params.norm, config.norm_eps)
  if paged:
    cache = cache.replace(k=new[0], v=new[1])
  elif cache is not None:
    past = past or kv.new(config, b, slots, x.dtype, unstacked=isinstance(params.blocks, tuple))
    cache = kv.append(past, new, positions)
  coef = config.moe.aux_coef if config.moe else 0.0
  return Hidden(x, cache, {site: stack(a) for site, a in kept.items()}, coef * stack(aux).mean())


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
):
  """(log-probability of `targets`, entropy of the distribution), float32 [B, T], of logits over a temperature.

  The temperature divides float32 logits, as in the engine: scaling bfloat16 hidden states would round them once more.
  Time is cut into chunks of at most `chunk` tokens, recomputed in the backward pass, so the [B, T, V] logits are never
  held whole. Chunks are strided over time, so each chunk stays sharded over the sequence axis.
  """
  if isinstance(params.head, jax.Array):  # gathered over the batch axes once, not in every chunk
    params = params.replace(head=constrain(params.head, (None, 'vocab')))

  @jax.checkpoint
  def piece(args):
    h, y = args
    z = logits(params, config, constrain(h, ('batch', 'time', None))) / temperature
    z = constrain(z, ('batch', 'time', 'vocab'))
    norm = jax.nn.logsumexp(z, -1)
    chosen = jnp.take_along_axis(z, y[..., None], -1)[..., 0]
    return chosen - norm, norm - jnp.sum(jax.nn.softmax(z, -1) * z, -1)

  b, t = targets.shape
  if t <= chunk:
    return piece((hidden, targets))
  pieces = -(-t // chunk)

  def split(x):
    x = pad(x, pieces * chunk, axis=1)
    return jnp.moveaxis(x.reshape(b, chunk, pieces, *x.shape[2:]), 2, 0)

  out = jax.lax.map(piece, (split(hidden), split(targets)))
  return jax.tree.map(lambda a: jnp.moveaxis(a, 0, 2).reshape(b, -1)[:, :t], out)


def apply(params: Params, config: Config, tokens: jax.Array, **options: Any) -> Output:
  """Logits of int32 tokens [B, T]; `options` as in `forward`."""
  out = forward(params, config, embed(params, tokens), **options)
  return Output(logits(params, config, out.hidden), out.cache, out.kept, out.aux)
