"""A bidirectional encoder by configuration data: InternViT, BERT, Whisper's encoder, CLIP's text tower and T5.

B batch   T time   D width   N heads   H head size   F feed-forward

Only the blocks: embeddings, positions and a final norm belong to the model. Whether a checkpoint fuses the projections
is data in the model's tree of names (`core.files.weights.From`).
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import struct

from core.attention import Keys, attention
from core.layers import gelu, layer_norm, quick_gelu, rms_norm, tanh_gelu
from core.mesh import RULES, constrain
from core.params import Spec, einsum, ones, stacked, zeros
from core.tap import Tap, taps, walk_keeping

ACTIVATIONS: dict[str, Callable] = {'gelu': gelu, 'quick_gelu': quick_gelu, 'tanh_gelu': tanh_gelu}
BIASES = ('q', 'k', 'v', 'o', 'up', 'down')


@dataclasses.dataclass(frozen=True)
class Config:
  """One kind of block, `depth` times.

  norm_place: 'pre' normalises the input of a branch, 'post' the residual sum. biases: the projections that have one.
  scale: of attention scores, 1/√H by default. qk_norm_eps: RMSNorm of q and k over all heads together, if given.
  layer_scale: the initial value of a learned factor on each branch's output, if given. drop_path: stochastic depth in
  training (arXiv 1603.09382), linear from 0 at the first layer to this rate at the last. axis: the logical axis of D.
  """

  width: int
  depth: int
  heads: int
  head_dim: int
  mlp_width: int
  norm: Literal['layer', 'rms']
  norm_place: Literal['pre', 'post']
  norm_eps: float
  activation: str = 'gelu'
  gated: bool = False  # the activation of one projection multiplies another (T5 1.1)
  biases: tuple[str, ...] = BIASES
  scale: float | None = None
  causal: bool = False
  qk_norm_eps: float | None = None
  layer_scale: float | None = None
  drop_path: float = 0.0
  axis: str = 'embed'

  def __post_init__(self):
    choices = (('norm', ('layer', 'rms')), ('norm_place', ('pre', 'post')), ('activation', tuple(ACTIVATIONS)))
    for name, allowed in choices:
      value = getattr(self, name)
      if value not in allowed:
        raise ValueError(f'encoder: {name}={value!r}; expected one of {list(allowed)}')
    unknown = [name for name in self.biases if name not in BIASES]
    if unknown:
      raise ValueError(f'encoder: biases={unknown}; expected some of {list(BIASES)}')


@struct.dataclass
class Norm:
  """Weights of LayerNorm, or of RMSNorm."""

  scale: Any  # [D]
  bias: Any = None  # None: RMSNorm


@struct.dataclass(kw_only=True)
class Attention:
  """Weights of self-attention; None where a configuration has none."""

  q: Any  # [D, N, H]
  k: Any
  v: Any
  o: Any  # [N, H, D]
  o_bias: Any = None  # [D]
  q_bias: Any = None  # [N, H]
  k_bias: Any = None
  v_bias: Any = None
  q_norm: Any = None  # [N·H]
  k_norm: Any = None


@struct.dataclass(kw_only=True)
class Block:
  """Weights of one layer; None where a configuration has none."""

  attn_norm: Norm
  attn: Attention
  attn_scale: Any = None  # [D], layer scale
  mlp_norm: Norm
  gate: Any = None  # [D, F]
  up: Any  # [D, F]
  up_bias: Any = None
  down: Any  # [F, D]
  down_bias: Any = None
  mlp_scale: Any = None


def norm_spec(width: int, kind: str) -> Norm:
  """The weights of one norm."""
  bias = None
  if kind == 'layer':
    bias = Spec((width,), (None,), zeros)
  return Norm(scale=Spec((width,), (None,), ones), bias=bias)


def spec(c: Config) -> Block:
  """Every weight of the blocks, stacked on a layer axis."""
  d = c.width
  n = c.heads
  h = c.head_dim
  f = c.mlp_width

  def bias(name, *shape):
    if name in c.biases:
      return Spec(shape, (None,) * len(shape), zeros)
    return None

  into = Spec((d, n, h), (c.axis, 'heads', None))
  qk_norm = None
  if c.qk_norm_eps is not None:
    qk_norm = Spec((n * h,), (None,), ones)
  attn = Attention(
    q=into,
    k=into,
    v=into,
    o=Spec((n, h, d), ('heads', None, c.axis), inputs=2),
    q_bias=bias('q', n, h),
    k_bias=bias('k', n, h),
    v_bias=bias('v', n, h),
    o_bias=bias('o', d),
    q_norm=qk_norm,
    k_norm=qk_norm,
  )
  wide = Spec((d, f), (c.axis, 'mlp'))
  norm = norm_spec(d, c.norm)
  scale = None
  if c.layer_scale is not None:
    scale = Spec((d,), (None,), _constant(c.layer_scale))
  block = Block(
    attn_norm=norm,
    attn=attn,
    mlp_norm=norm,
    up=wide,
    down=Spec((f, d), ('mlp', c.axis)),
    gate=wide if c.gated else None,
    up_bias=bias('up', f),
    down_bias=bias('down', d),
    attn_scale=scale,
    mlp_scale=scale,
  )
  return stacked(block, c.depth)


def _constant(value: float) -> Callable:
  return lambda key, shape, dtype: jnp.full(shape, value, dtype)


def normalise(x: jax.Array, p: Norm, eps: float) -> jax.Array:
  """LayerNorm of x [..., D], or RMSNorm if there is no bias."""
  if p.bias is None:
    return rms_norm(x, p.scale, eps)
  return layer_norm(x, p.scale, p.bias, eps)


@dataclasses.dataclass(frozen=True)
class _Context:
  """What every layer of one call shares."""

  config: Config
  positions: jax.Array | None
  bias: jax.Array | None
  rules: dict
  drop_key: jax.Array | None


def _attend(p: Attention, x, tap: Tap, ctx: _Context):
  c = ctx.config
  q = _add(einsum('btd,dnh->btnh', x, p.q), p.q_bias)
  k = _add(einsum('btd,dnh->btnh', x, p.k), p.k_bias)
  v = _add(einsum('btd,dnh->btnh', x, p.v), p.v_bias)
  if c.qk_norm_eps is not None:
    q = _norm_heads(q, p.q_norm, c.qk_norm_eps)
    k = _norm_heads(k, p.k_norm, c.qk_norm_eps)
  q = tap('q', q)
  k = tap('k', k)
  v = tap('v', v)
  keys = Keys(jnp.swapaxes(k, 1, 2), jnp.swapaxes(v, 1, 2), ctx.positions)
  options = {'causal': c.causal, 'bias': ctx.bias, 'scale': c.scale, 'rules': ctx.rules, 'tap': tap}
  y = tap('z', attention(q, [keys], positions=ctx.positions, **options))
  return _add(einsum('btnh,nhd->btd', y, p.o), p.o_bias)


def _add(x, bias):
  if bias is None:
    return x
  return x + bias


def _norm_heads(x, scale, eps):
  """RMSNorm of [B, T, N, H] over all heads together."""
  return rms_norm(x.reshape(*x.shape[:2], -1), scale, eps).reshape(x.shape)


def _feed_forward(p: Block, x, c: Config):
  act = ACTIVATIONS[c.activation]
  up = _add(einsum('btd,df->btf', x, p.up), p.up_bias)
  hidden = act(einsum('btd,df->btf', x, p.gate)) * up if c.gated else act(up)
  return _add(einsum('btf,fd->btd', hidden, p.down), p.down_bias)


def _drop_path(y, i, branch: int, ctx: _Context):
  """Stochastic depth: a row skips the branch with the layer's rate; the others are scaled up."""
  c = ctx.config
  if ctx.drop_key is None or not c.drop_path:
    return y
  rate = c.drop_path * i / max(c.depth - 1, 1)
  key = jax.random.fold_in(jax.random.fold_in(ctx.drop_key, i), branch)
  kept = jax.random.bernoulli(key, 1 - rate, (y.shape[0], 1, 1))
  return (y * kept / (1 - rate)).astype(y.dtype)


def _scaled(y, factor):
  if factor is None:
    return y
  return y * factor


def _entering(x, norm: Norm, c: Config):
  """What a branch reads."""
  if c.norm_place == 'pre':
    return normalise(x, norm, c.norm_eps)
  return x


def _leaving(x, norm: Norm, c: Config):
  """The sum of a branch's input and output, as the next branch gets it."""
  if c.norm_place == 'post':
    return normalise(x, norm, c.norm_eps)
  return x


def _block(x, i, p: Block, tap, ctx: _Context):
  c = ctx.config
  x = tap('resid_in', constrain(x, ('batch', None, None), ctx.rules))
  h = tap('attn_in', _entering(x, p.attn_norm, c))
  y = tap('attn_out', _scaled(_attend(p.attn, h, tap, ctx), p.attn_scale))
  x = _leaving(x + _drop_path(y, i, 0, ctx), p.attn_norm, c)
  return _mlp(x, i, p, tap, ctx)


def _mlp(x, i, p: Block, tap, ctx: _Context):
  """The second half of a block."""
  c = ctx.config
  h = tap('mlp_in', _entering(x, p.mlp_norm, c))
  y = tap('mlp_out', _scaled(_feed_forward(p, h, c), p.mlp_scale))
  x = _leaving(x + _drop_path(y, i, 1, ctx), p.mlp_norm, c)
  return tap('resid_out', x)


def apply(
  blocks: Block | tuple[Block, ...],
  config: Config,
  x: jax.Array,
  *,
  mask: jax.Array | None = None,
  bias: jax.Array | None = None,
  edit: Callable | None = None,
  keep: tuple[str, ...] = (),
  prefix: str = '',
  rules=RULES,
  remat_policy: str | None = None,
  drop_key: jax.Array | None = None,
) -> tuple[jax.Array, dict]:
  """(features [B, T, D] after the last block, kept activations by site) of embeddings x [B, T, D].

  mask: bool [B, T], true at tokens, false at padding; no query sees a padded key. bias: [B or 1, N, T, T], added to the
  scores of every layer (T5). edit, keep: as in `core.tap`, with `prefix` before each site's name. To train:
  remat_policy of `core.remat`, and drop_key, a jax.random key that switches stochastic depth on.
  """
  positions = None
  if mask is not None or config.causal:
    positions = jnp.broadcast_to(jnp.arange(x.shape[1], dtype=jnp.int32), x.shape[:2])
    if mask is not None:
      positions = jnp.where(mask, positions, -1)
  ctx = _Context(config=config, positions=positions, bias=bias, rules=rules, drop_key=drop_key)

  def layer(x, i, block):
    tap, kept = taps(edit, keep, i, prefix)
    return _block(x, i, block, tap, ctx), (kept, ())

  options = {'prefix': prefix, 'remat_policy': remat_policy}
  x, kept, _ = walk_keeping(layer, keep, config.depth, x, blocks, **options)
  return x, kept


def resume(
  blocks: Block,
  config: Config,
  x: jax.Array,
  start: jax.Array,
  *,
  edit: Callable | None = None,
  prefix: str = '',
  rules=RULES,
) -> jax.Array:
  """Features [B, T, D] of a run that starts at layer `start`, int32 [], whose input is x [B, T, D].

  blocks: stacked. Every token attends to all. Raises ValueError for a causal configuration.
  """
  if config.causal:
    raise ValueError('encoder: resume is for attention to all tokens; the configuration is causal')
  ctx = _Context(config=config, positions=None, bias=None, rules=rules, drop_key=None)

  def layer(i, x):
    block = _layer(blocks, i)
    tap, _ = taps(edit, (), i, prefix)
    return _block(x, i, block, tap, ctx)

  return jax.lax.fori_loop(start, config.depth, layer, x)


def after_attention(
  blocks: Block,
  config: Config,
  x: jax.Array,
  attn_out: jax.Array,
  layer: jax.Array,
  *,
  edit: Callable | None = None,
  prefix: str = '',
) -> jax.Array:
  """Features [B, T, D] after a layer, int32 [], of tokens whose input is x and to which attention adds `attn_out`.

  The rest of a layer treats each token by itself, so these may be a few of a sequence. blocks: stacked.
  """
  ctx = _Context(config=config, positions=None, bias=None, rules=RULES, drop_key=None)
  block = _layer(blocks, layer)
  tap, _ = taps(edit, (), layer, prefix)
  x = _leaving(x + tap('attn_out', attn_out), block.attn_norm, config)
  return _mlp(x, layer, block, tap, ctx)


def _layer(blocks: Block, i: jax.Array) -> Block:
  """The weights of one of the stacked layers."""
  return jax.tree.map(lambda leaf: leaf[i], blocks)
