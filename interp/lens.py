"""Logit lens and encoder lens: what a model would say if it stopped at an earlier layer (arXiv 2508.15882, section 3).

L layers   B rows   T tokens   D width   V vocabulary

`resid_out` of the last layer is before the final norm, so every layer, the last included, is normalised once.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from interp.sites import edits, replace


@struct.dataclass
class Lens:
  """What each layer says. top: int32 [L, B, T, k], the likeliest tokens, with top_logp float32.

  rank: int32 [L, B, T], of the final token, 0 is the likeliest. logp: float32, of the final token. entropy: float32,
  in nats.
  """

  top: jax.Array
  top_logp: jax.Array
  rank: jax.Array
  logp: jax.Array
  entropy: jax.Array


def logit_lens(
  stream: jax.Array,
  norm: Callable,
  unembed: Callable,
  *,
  top: int = 5,
  final: jax.Array | None = None,
) -> Lens:
  """The logit lens of `resid_out` [L, B, T, D], as `apply(…, keep=('resid_out',))` keeps it.

  norm: the model's final norm, of [B, T, D]. unembed: logits [B, T, V] of normalised states. final: int32 [B, T], the
  tokens to follow; the last layer's likeliest by default. Layers are computed one at a time, so that memory holds the
  logits of one.
  """
  if stream.ndim != 4:
    raise ValueError(f'logit_lens: stream {stream.shape}; expected [layers, batch, time, width]')

  def read(x):
    return unembed(norm(x)).astype(jnp.float32)

  if final is None:
    final = read(stream[-1]).argmax(-1)
  return jax.lax.map(lambda x: _measured(read(x), final, top), stream)


def _measured(logits: jax.Array, final: jax.Array, top: int) -> Lens:
  """The `Lens` of one layer, without its axis L, of float32 logits [B, T, V]."""
  logp = jax.nn.log_softmax(logits)
  top_logp, tokens = jax.lax.top_k(logp, top)
  chosen = jnp.take_along_axis(logp, final[..., None], -1)
  better = logp > chosen
  weighted = jnp.exp(logp) * logp
  return Lens(
    top=tokens,
    top_logp=top_logp,
    rank=better.sum(-1),
    logp=chosen[..., 0],
    entropy=-weighted.sum(-1),
  )


def saturation(lens: Lens) -> jax.Array:
  """int32 [B, T]: the first layer from which the final token is the likeliest in that layer and all later ones.

  L where the last layer does not have it, which happens for `final` tokens of another run.
  """
  wrong = lens.rank > 0
  depth = wrong.shape[0]
  right_at_the_end = jnp.argmax(wrong[::-1], 0)  # layers, counted from the last
  return jnp.where(wrong.any(0), depth - right_at_the_end, 0)


def first_hit(lens: Lens) -> jax.Array:
  """int32 [B, T]: the first layer in which the final token is the likeliest, though a later one may lose it; else L."""
  right = lens.rank == 0
  depth = right.shape[0]
  first = jnp.argmax(right, 0)
  return jnp.where(right.any(0), first, depth)


def curves(lens: Lens, mask: jax.Array) -> dict[str, jax.Array]:
  """Means [L] over the tokens in `mask` [B, T]: probability of the final token, its rank, the entropy."""
  count = jnp.maximum(mask.sum(), 1)

  def mean(values):
    return jnp.einsum('lbt,bt->l', values.astype(jnp.float32), mask / count)

  return {
    'probability': mean(jnp.exp(lens.logp)),
    'rank': mean(lens.rank),
    'entropy': mean(lens.entropy),
  }


def encoder_lens(states: jax.Array, norm: Callable, decode: Callable) -> list[Any]:
  """What the unchanged decoder makes of each encoder layer: decode(states [B, S, D]) for each of `states` [L, B, S, D].

  states: `encoder.embed` and the layers of `encoder.resid_out`, stacked by `encoder_states`, so index 0 is before any
  block. norm: the encoder's final norm, without which the output is not coherent; it is applied once here, and
  `decode` takes states that are normalised.
  """
  return [decode(norm(x)) for x in states]


def encoder_states(kept: dict, prefix: str = 'encoder.') -> jax.Array:
  """[1 + L, B, S, D]: the embeddings, then every layer, from what a model kept. Raises ValueError if it did not."""
  embed, layers = (f'{prefix}{site}' for site in ('embed', 'resid_out'))
  missing = [site for site in (embed, layers) if site not in kept]
  if missing:
    raise ValueError(f'encoder_states: {missing} are not kept; pass them in `keep`')
  before = kept[embed][None]
  return jnp.concatenate([before, kept[layers]])


def exit_at(stream: jax.Array, layer: int) -> Callable:
  """An `edit` by which a model's own norm and head see layer `layer` of `stream` [L, B, T, D]: the lens, by a patch."""
  depth = stream.shape[0]
  last = ('resid_out', depth - 1)
  return edits({last: replace(stream[layer])}, depth=depth)
