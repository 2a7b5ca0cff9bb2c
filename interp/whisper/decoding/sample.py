"""Greedy decoding and sampling: one compiled loop.

R rows   V vocabulary   N response slots
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from core.engine.sampling import Sampling, pick
from interp.whisper import decoder
from interp.whisper.config import Config
from interp.whisper.decoding.prefill import Prompt, prefill
from interp.whisper.decoding.rules import Rules


@struct.dataclass
class Decoded:
  """tokens: int32 [R, N], without the end token. count: int32 [R]. logp: float32 [R], sum over tokens and end.

  Log-probabilities are of the distribution after the rules, at temperature 1. no_speech: float32 [R]. ended: bool [R],
  whether the end token was decoded; false where `new` tokens or the last position cut the response.
  """

  tokens: jax.Array
  count: jax.Array
  logp: jax.Array
  no_speech: jax.Array
  ended: jax.Array


@struct.dataclass
class _State:
  tokens: Any
  count: Any
  logp: Any
  ended: Any
  logits: Any
  cache: Any
  step: Any


@functools.partial(jax.jit, static_argnames=('config', 'new', 'no_speech'))
def sample(
  params: decoder.Params,
  config: Config,
  keys: tuple,
  prompt: Prompt,
  rules: Rules,
  sampling: Sampling,
  *,
  new: int,
  no_speech: int,
  edit=None,
) -> Decoded:
  """Responses of at most `new` tokens to a prompt, given the `decoder.cross_keys` of R audios or of R/n.

  no_speech: id whose probability at the prompt's start is returned. edit: as in `core.tap`, at every step.
  """
  logits, start, cache = prefill(params, config, keys, prompt, new=new, edit=edit)
  rows = logits.shape[0]
  at = jnp.arange(rows)
  state = _State(
    tokens=jnp.full((rows, new), rules.eot, jnp.int32),
    count=jnp.zeros(rows, jnp.int32),
    logp=jnp.zeros(rows, jnp.float32),
    ended=jnp.zeros(rows, bool),
    logits=logits,
    cache=cache,
    step=jnp.int32(0),
  )

  def advance(s: _State) -> _State:
    allowed = rules(s.logits, s.tokens, s.count)
    position = prompt.length + s.count
    live = ~s.ended & (position <= config.text_length)
    token, _ = pick(s.logits, sampling, position, allowed)
    token = jnp.where(live, token, rules.eot)
    gained = jax.nn.log_softmax(allowed)[at, token]
    grows = live & (token != rules.eot)
    place = jnp.where(grows, s.count, new)  # out of bounds is dropped
    # A token beyond the table of positions is a result, but nothing follows it.
    positions = jnp.where(grows & (position < config.text_length), position, -1)[:, None]
    out = decoder.forward(params, config, token[:, None], keys, positions=positions, cache=s.cache, edit=edit)
    return _State(
      tokens=s.tokens.at[at, place].set(token, mode='drop'),
      count=s.count + grows,
      logp=s.logp + jnp.where(live, gained, 0),
      ended=s.ended | (live & ~grows),
      logits=decoder.logits(params, out.hidden)[:, 0],
      cache=out.cache,
      step=s.step + 1,
    )

  def going(s: _State):
    live = ~s.ended & (prompt.length + s.count <= config.text_length)
    return live.any() & (s.step < new)

  end = jax.lax.while_loop(going, advance, state)
  silence = jax.nn.softmax(start)[:, no_speech]
  return Decoded(tokens=end.tokens, count=end.count, logp=end.logp, no_speech=silence, ended=end.ended)
