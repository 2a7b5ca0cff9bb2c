"""Realtime: the language model cut in two. Text goes through both stacks, frames of speech through the upper one.

B batch   T time   F frames   C acoustic latent   D width
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from core import decoder
from core import params as params_lib
from core.decoder import Hidden
from core.mesh import RULES
from core.params import Spec, einsum, zeros
from vibevoice import connector, scaling, tokenizer
from vibevoice.config import RealtimeConfig
from vibevoice.diffusion import head

SPEECH, TEXT = 0, 1  # rows of the type table


@struct.dataclass(kw_only=True)
class Stop:
  """Weights of the classifier that ends the speech: w2 relu(W1 h + b1) + b2."""

  hidden: Any  # [D, D]
  hidden_bias: Any
  out: Any  # [D, 1]
  out_bias: Any


@struct.dataclass(kw_only=True)
class Params:
  """Weights of the whole model."""

  lower: decoder.Params
  upper: decoder.Params
  types: Any  # [2, D]: what a frame and what a text token add to the upper stack's input
  acoustic: tokenizer.Params  # a decoder only
  connector: connector.Params
  head: head.Params
  stop: Stop
  scaling: scaling.Params


def spec(config: RealtimeConfig) -> Params:
  """Every weight, once."""
  c = config
  width = config.upper.width
  stop = Stop(
    hidden=Spec((width, width), ('embed', 'mlp')),
    hidden_bias=Spec((width,), (None,), zeros),
    out=Spec((width, 1), ('embed', None)),
    out_bias=Spec((1,), (None,), zeros),
  )
  return Params(
    lower=decoder.spec(c.lower),
    upper=decoder.spec(c.upper),
    types=Spec((2, width), (None, 'embed'), inputs=0),
    acoustic=tokenizer.spec(c.acoustic, encodes=False),
    connector=connector.spec(c.acoustic.latent, width),
    head=head.spec(c.head),
    stop=stop,
    scaling=scaling.spec(),
  )


def init(key: jax.Array, config: RealtimeConfig, dtype=jnp.float32) -> Params:
  """Random parameters."""
  return params_lib.init(key, spec(config), dtype)


def lower(params: Params, config: RealtimeConfig, tokens: jax.Array, *, rules=RULES, **options: Any) -> Hidden:
  """The lower stack, without a final norm, over int32 tokens [B, T]; `options` as in `core.decoder.forward`."""
  x = decoder.embed(params.lower, tokens, rules)
  return decoder.forward(params.lower, config.lower, x, rules=rules, **options)


def upper_text(params: Params, config: RealtimeConfig, hidden: jax.Array, **options: Any) -> Hidden:
  """The upper stack over text: hidden states [B, T, D] of the lower stack."""
  return decoder.forward(params.upper, config.upper, hidden + params.types[TEXT], **options)


def upper_speech(params: Params, config: RealtimeConfig, latents: jax.Array, **options: Any) -> Hidden:
  """The upper stack over frames: scaled acoustic latents [B, F, C]."""
  x = connector.apply(params.connector, latents)
  return decoder.forward(params.upper, config.upper, x + params.types[SPEECH], **options)


def stop_probability(params: Params, hidden: jax.Array) -> jax.Array:
  """Probability float32 [B, T] that the speech ends after hidden states [B, T, D] of the upper stack."""
  p = params.stop
  active = jax.nn.relu(einsum('btd,de->bte', hidden, p.hidden) + p.hidden_bias)
  logit = einsum('btd,do->bto', active, p.out) + p.out_bias
  return jax.nn.sigmoid(logit[..., 0].astype(jnp.float32))
