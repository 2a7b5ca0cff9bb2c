"""Beam search as each set of rules defines it: one compiled loop.

B audios   G beams   V vocabulary   N response slots   F finished responses kept

'openai': responses that end are collected until round(G · patience) of them exist; the best by log-probability over
length. 'transformers': the G best that ended are kept until no beam can beat them; its log-probabilities are taken
before the rules, and its length counts the end token.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from interp.whisper import decoder
from interp.whisper.config import Config
from interp.whisper.decoding.prefill import Prompt, prefill
from interp.whisper.decoding.rules import Rules
from interp.whisper.decoding.sample import Decoded

WORST = -1e9


@struct.dataclass
class _State:
  tokens: Any  # [B, G, N]
  logp: Any  # [B, G]
  logits: Any  # [B G, V]
  cache: Any
  done_tokens: Any  # [B, F, N]
  done_logp: Any  # [B, F]
  done_count: Any  # [B, F]
  score: Any  # [B, F], WORST in empty places
  filled: Any  # [B]
  closed: Any  # [B], no more responses are taken
  step: Any


@functools.partial(jax.jit, static_argnames=('config', 'new', 'no_speech', 'beams', 'patience', 'penalty', 'style'))
def beam(
  params: decoder.Params,
  config: Config,
  keys: tuple,
  prompt: Prompt,
  rules: Rules,
  *,
  new: int,
  no_speech: int,
  beams: int,
  patience: float = 1.0,
  penalty: float | None = None,
  style: str = 'openai',
  edit=None,
) -> Decoded:
  """The best response to each prompt, of at most `new` tokens, given the `decoder.cross_keys` of B audios.

  penalty: exponent of length; by default 1, and 'openai' takes another one as that of ((5 + length) / 6).
  """
  logits, start, cache = prefill(params, config, keys, prompt, new=new, edit=edit)
  openai = style == 'openai'
  kept = round(beams * patience) if openai else beams
  state = _begin(logits, _repeated(cache, beams), rules.eot, beams=beams, kept=kept, new=new)
  score_of = functools.partial(_score, penalty=penalty, openai=openai)
  lengths = jnp.repeat(prompt.length, beams)
  last = config.text_length - prompt.length  # the last step of each audio: nothing follows the table of positions

  def advance(s: _State) -> _State:
    s, choice = _choose(s, rules, score_of, openai=openai)
    positions = (lengths + s.step)[:, None]
    cache = _reordered(s.cache, choice.row)
    out = decoder.forward(params, config, choice.token, keys, positions=positions, cache=cache, edit=edit)
    best = score_of(choice.logp[:, 0], s.step)
    full = s.filled >= kept
    closes = full
    if not openai:
      closes = full & (best <= s.score.min(-1))
    stays = s.closed[:, None]  # audios that are done wait for the others of the batch
    return s.replace(
      tokens=jnp.where(stays[..., None], s.tokens, choice.tokens),
      logp=jnp.where(stays, s.logp, choice.logp),
      logits=decoder.logits(params, out.hidden)[:, 0],
      cache=out.cache,
      closed=s.closed | closes | (s.step >= last),
      step=s.step + 1,
    )

  end = jax.lax.while_loop(lambda s: ~s.closed.all() & (s.step < new), advance, state)
  said = jnp.minimum(end.step, last + 1)[:, None]
  end = _unfinished(end, score_of, said, kept=kept, always=openai)
  return _best(end, no_speech=jax.nn.softmax(start)[:, no_speech], kept=kept)


class _Choice(NamedTuple):
  """The beams that continue: tokens [B, G, N], logp [B, G], their last token [B G, 1], the row [B G] each came from."""

  tokens: jax.Array
  logp: jax.Array
  token: jax.Array
  row: jax.Array


def _begin(logits: jax.Array, cache, eot: int, *, beams: int, kept: int, new: int) -> _State:
  """Before the first token: only the first beam counts, since equal beams would stay equal."""
  rows = logits.shape[0]
  return _State(
    tokens=jnp.full((rows, beams, new), eot, jnp.int32),
    logp=jnp.full((rows, beams), WORST).at[:, 0].set(0.0),
    logits=jnp.repeat(logits, beams, 0),
    cache=cache,
    done_tokens=jnp.full((rows, kept, new), eot, jnp.int32),
    done_logp=jnp.full((rows, kept), WORST),
    done_count=jnp.zeros((rows, kept), jnp.int32),
    score=jnp.full((rows, kept), WORST),
    filled=jnp.zeros(rows, jnp.int32),
    closed=jnp.zeros(rows, bool),
    step=jnp.int32(0),
  )


def _score(logp, length, *, penalty: float | None, openai: bool):
  """By which responses are ranked; length: tokens without the end."""
  if not openai:
    return logp / (length + 1) ** (1.0 if penalty is None else penalty)
  if penalty is None:
    return logp / jnp.maximum(length, 1)
  return logp / ((5 + length) / 6) ** penalty


def _next_logp(s: _State, rules: Rules, *, openai: bool) -> jax.Array:
  """Log-probabilities [B G, V] of each beam's next token: of the logits under the rules, or rules on those of all."""
  rows, beams, new = s.tokens.shape
  flat = s.tokens.reshape(rows * beams, new)
  count = jnp.full(rows * beams, s.step)
  if openai:
    return jax.nn.log_softmax(rules(s.logits, flat, count))
  return rules(jax.nn.log_softmax(s.logits), flat, count)


def _choose(s: _State, rules: Rules, score_of, *, openai: bool) -> tuple[_State, _Choice]:
  """The state with the responses that end here, and the beams that continue."""
  rows, beams, _ = s.tokens.shape
  at = jnp.arange(rows)[:, None]
  logp = _next_logp(s, rules, openai=openai)
  vocab = logp.shape[-1]
  total = s.logp[:, :, None] + logp.reshape(rows, beams, vocab)
  # One end a beam at most, so 2 G candidates hold G that continue.
  top, index = jax.lax.top_k(total.reshape(rows, -1), 2 * beams)
  parent = index // vocab
  token = index % vocab
  ends = token == rules.eot
  running_before = jnp.cumsum(~ends, -1) - ~ends
  counted = running_before < beams if openai else jnp.arange(2 * beams) < beams
  finishes = ends & counted & ~s.closed[:, None] & (top > WORST / 2)
  s = _finish(s, finishes, top, parent, score_of(top, s.step), first_come=openai)
  order = jnp.argsort(jnp.where(ends, 1, 0), -1, stable=True)[:, :beams]
  parent, token, logp = (x[at, order] for x in (parent, token, top))
  tokens = s.tokens[at, parent].at[:, :, s.step].set(token)
  row = (at * beams + parent).reshape(-1)
  return s, _Choice(tokens=tokens, logp=logp, token=token.reshape(-1, 1), row=row)


def _best(s: _State, *, no_speech: jax.Array, kept: int) -> Decoded:
  """The response of the highest score of each audio; the first `kept` places hold those that ended by themselves."""
  at = jnp.arange(s.score.shape[0])
  best = jnp.argmax(s.score, -1)
  count = s.done_count[at, best]
  return Decoded(
    tokens=s.done_tokens[at, best],
    count=count,
    logp=s.done_logp[at, best],
    no_speech=no_speech,
    ended=best < kept,
  )


def _repeated(cache, times: int):
  """The cache of one row for each of its beams."""
  axis = 0 if isinstance(cache.k, tuple) else 1
  grow = functools.partial(jnp.repeat, repeats=times, axis=axis)
  k, v = jax.tree.map(grow, (cache.k, cache.v))
  return cache.replace(k=k, v=v, positions=jnp.repeat(cache.positions, times, 0))


def _reordered(cache, chosen):
  """The cache with row i that of row `chosen` [i]."""
  axis = 0 if isinstance(cache.k, tuple) else 1
  take = lambda x: jnp.take(x, chosen, axis)
  k, v = jax.tree.map(take, (cache.k, cache.v))
  return cache.replace(k=k, v=v, positions=cache.positions[chosen])


def _finish(s: _State, finishes, logp, parent, score, *, first_come: bool) -> _State:
  """Adds candidates that end here. first_come: in order until the places are full; else the best are kept."""
  at = jnp.arange(logp.shape[0])[:, None]
  kept = s.score.shape[1]
  if first_come:
    place = s.filled[:, None] + jnp.cumsum(finishes, -1) - 1
    place = jnp.where(finishes, place, kept)
    put = lambda old, new: old.at[at, place].set(new, mode='drop')
    return s.replace(
      done_tokens=put(s.done_tokens, s.tokens[at, parent]),
      done_logp=put(s.done_logp, logp),
      done_count=put(s.done_count, s.step),
      score=put(s.score, score),
      filled=jnp.minimum(s.filled + finishes.sum(-1), kept),
    )
  merged = jnp.concatenate([s.score, jnp.where(finishes, score, WORST)], 1)
  best, order = jax.lax.top_k(merged, kept)

  def choose(old, new):
    return jnp.concatenate([old, new], 1)[at, order]

  counts = jnp.broadcast_to(s.step, logp.shape)
  return s.replace(
    done_tokens=choose(s.done_tokens, s.tokens[at, parent]),
    done_logp=choose(s.done_logp, logp),
    done_count=choose(s.done_count, counts),
    score=best,
    filled=(best > WORST / 2).sum(-1),
  )


def _unfinished(s: _State, score_of, said: jax.Array, *, kept: int, always: bool) -> _State:
  """Beams that reached the limit fill the empty places, best first; not `always`: only where nothing has ended.

  said: int32 [B, 1], tokens of each beam.
  """
  beams = s.logp.shape[1]
  rank = jnp.arange(beams)
  free = rank < (jnp.minimum(kept, beams) - s.filled)[:, None]
  if not always:
    free &= (s.filled == 0)[:, None]
  score = jnp.where(free, score_of(s.logp, said - (0 if always else 1)), WORST)
  counts = jnp.broadcast_to(said, score.shape)
  return s.replace(
    done_tokens=jnp.concatenate([s.done_tokens, s.tokens], 1),
    done_logp=jnp.concatenate([s.done_logp, s.logp], 1),
    done_count=jnp.concatenate([s.done_count, counts], 1),
    score=jnp.concatenate([s.score, score], 1),
  )
