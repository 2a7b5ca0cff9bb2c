"""The blocks: text and image with weights of their own, or as one sequence.

B batch   T text tokens   S patches   D width   N heads   H head size. Text comes before the image in every sequence.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from core.attention import Keys, attention
from core.layers import layer_norm, rms_norm, rotate_pairs, tanh_gelu
from core.mesh import constrain
from core.params import einsum
from core.tap import Tap
from rl.flow.mmdit.config import Config
from rl.flow.mmdit.params import Attention, Joint, Linear, Single, Stream, TwoLayers

ATTN_AND_MLP = ('attn_shift', 'attn_scale', 'attn_gate', 'mlp_shift', 'mlp_scale', 'mlp_gate')
# What the chunks of a modulation are, by their number. A lone norm has its scale first, all others their shift.
PARTS = {
  2: ('attn_scale', 'attn_shift'),
  3: ('attn_shift', 'attn_scale', 'attn_gate'),
  6: ATTN_AND_MLP,
  9: (*ATTN_AND_MLP, 'own_shift', 'own_scale', 'own_gate'),
}

PLACED = ('batch', None, None)  # a sequence [B, T, D] on the mesh
HEADS_PLACED = ('batch', None, 'attn_heads', None)
Vectors = dict[str, jax.Array]  # [B, 1, D] each: shifts, scales and gates by the names in PARTS


@dataclasses.dataclass(frozen=True)
class Context:
  """What all blocks of one call share: active [B, D], SiLU of the condition; rope tables, or None."""

  config: Config
  active: jax.Array
  rope: tuple[jax.Array, jax.Array] | None
  rules: dict


@dataclasses.dataclass(frozen=True)
class Taps:
  """The taps of a joint block: of each stream, of the attention over both, and of the image's own."""

  text: Tap
  image: Tap
  both: Tap
  own: Tap


def linear(x: jax.Array, p: Linear) -> jax.Array:
  """[B, T, inputs] to [B, T, outputs]."""
  product = einsum('btd,df->btf', x, p.weight)
  return product + p.bias


def two_layers(x: jax.Array, p: TwoLayers) -> jax.Array:
  """[B, inputs] to [B, D]."""
  up = einsum('bd,df->bf', x, p.up.weight)
  hidden = jax.nn.silu(up + p.up.bias)
  down = einsum('bf,fd->bd', hidden, p.down.weight)
  return down + p.down.bias


def modulation(active: jax.Array, p: Linear) -> Vectors:
  """The vectors that shift, scale and gate a block."""
  product = einsum('bd,dpe->bpe', active, p.weight)
  vectors = product + p.bias
  count = vectors.shape[1]
  each = jnp.split(vectors, count, axis=1)
  return dict(zip(PARTS[count], each))


def modulated(x: jax.Array, by: Vectors, name: str, eps: float) -> jax.Array:
  """LayerNorm without weights of its own, scaled and shifted by the vectors of `name`."""
  scale = 1 + by[f'{name}_scale']
  shift = by[f'{name}_shift']
  return layer_norm(x, scale, shift, eps)


def _heads(x: jax.Array, p: Linear) -> jax.Array:
  product = einsum('btd,dnh->btnh', x, p.weight)
  return product + p.bias


def _queries_keys_values(x: jax.Array, p: Attention, eps: float) -> tuple[jax.Array, ...]:
  """Each [B, T, N, H]."""
  q = _heads(x, p.q)
  k = _heads(x, p.k)
  v = _heads(x, p.v)
  if p.q_norm is not None:
    q = rms_norm(q, p.q_norm, eps)
    k = rms_norm(k, p.k_norm, eps)
  return q, k, v


def _attend(q: jax.Array, k: jax.Array, v: jax.Array, rope: Any, tap: Tap, ctx: Context) -> jax.Array:
  """Every token attends to every token: [B, T, N, H], as queries, keys and values."""
  if rope is not None:
    q = rotate_pairs(q, *rope)
    k = rotate_pairs(k, *rope)
  q = tap('q', q)
  k = tap('k', k)
  v = tap('v', v)
  q = constrain(q, HEADS_PLACED, ctx.rules)
  keys = jnp.swapaxes(k, 1, 2)
  values = jnp.swapaxes(v, 1, 2)
  seen = [Keys(keys, values)]
  z = attention(q, seen, causal=False, rules=ctx.rules, tap=tap)
  return tap('z', z)


def _merge_heads(z: jax.Array, p: Linear) -> jax.Array:
  product = einsum('btnh,nhd->btd', z, p.weight)
  return product + p.bias


def _feed_forward(x: jax.Array, p: Stream) -> jax.Array:
  hidden = tanh_gelu(linear(x, p.up))
  return linear(hidden, p.down)


def _own_attention(x: jax.Array, p: Attention, tap: Tap, ctx: Context) -> jax.Array:
  """The second attention of a dual block, over the image alone."""
  q, k, v = _queries_keys_values(x, p, ctx.config.eps)
  z = _attend(q, k, v, None, tap, ctx)
  return _merge_heads(z, p.o)


def _before_attention(x: jax.Array, p: Stream | Single, tap: Tap, ctx: Context) -> tuple[jax.Array, Vectors, jax.Array]:
  """A stream [B, T, D], the vectors of its block, and what its attention reads [B, T, D]."""
  x = constrain(x, PLACED, ctx.rules)
  x = tap('resid_in', x)
  by = modulation(ctx.active, p.modulation)
  h = modulated(x, by, 'attn', ctx.config.eps)
  return x, by, tap('attn_in', h)


def _after_attention(x: jax.Array, z: jax.Array, p: Stream, by: Vectors, tap: Tap, own: Tap, ctx: Context) -> jax.Array:
  """A stream [B, T, D] with its share z [B, T, N, H] of the joint attention, and its feed-forward layer, added."""
  eps = ctx.config.eps
  before = x
  joint = _merge_heads(z, p.attn.o)
  gated = by['attn_gate'] * joint
  x = x + tap('attn_out', gated)
  if p.own is not None:
    # Not of the sum above: both attentions read the block's input.
    own_in = modulated(before, by, 'own', eps)
    alone = _own_attention(own_in, p.own, own, ctx)
    x = x + by['own_gate'] * alone
  h = modulated(x, by, 'mlp', eps)
  h = tap('mlp_in', h)
  y = _feed_forward(h, p)
  gated = by['mlp_gate'] * y
  x = x + tap('mlp_out', gated)
  return tap('resid_out', x)


def joint_block(text: jax.Array, image: jax.Array, p: Joint, taps: Taps, ctx: Context) -> tuple[jax.Array, jax.Array]:
  """(text [B, T, D], image [B, S, D]) after one joint block; text unchanged where the block has no text output."""
  eps = ctx.config.eps
  length = text.shape[1]
  text, text_by, text_in = _before_attention(text, p.text, taps.text, ctx)
  image, image_by, image_in = _before_attention(image, p.image, taps.image, ctx)
  of_text = _queries_keys_values(text_in, p.text.attn, eps)
  of_image = _queries_keys_values(image_in, p.image.attn, eps)
  q, k, v = (jnp.concatenate(pair, 1) for pair in zip(of_text, of_image))
  z = _attend(q, k, v, ctx.rope, taps.both, ctx)
  z_text = z[:, :length]
  z_image = z[:, length:]
  image = _after_attention(image, z_image, p.image, image_by, taps.image, taps.own, ctx)
  if p.text.attn.o is not None:
    text = _after_attention(text, z_text, p.text, text_by, taps.text, taps.own, ctx)
  return text, image


def single_block(x: jax.Array, p: Single, tap: Tap, ctx: Context) -> jax.Array:
  """Text and image [B, T + S, D] after one block whose attention and feed-forward layer read the same input."""
  x, by, h = _before_attention(x, p, tap, ctx)
  q, k, v = _queries_keys_values(h, p.attn, ctx.config.eps)
  z = _attend(q, k, v, ctx.rope, tap, ctx)
  merged = z.reshape(*z.shape[:2], -1)
  up = linear(h, p.up)
  hidden = tanh_gelu(up)
  joined = jnp.concatenate([merged, hidden], -1)
  y = linear(joined, p.out)
  gated = by['attn_gate'] * y
  x = x + tap('mlp_out', gated)
  return tap('resid_out', x)
