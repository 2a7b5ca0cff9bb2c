"""Beam search as each set of rules defines it: one compiled loop.

B audios   G beams   V vocabulary   N response slots   F finished responses kept

'openai': responses that end are collected until round(G · patience) of them exist; the best by log-probability over
length. 'transformers': the G best that ended are kept until no beam can beat them; its log-probabilities are taken
before the rules, and its length counts the end token.
"""

import functools
from typing import Any

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


@functools.partial(
  jax.jit, static_argnames=('config', 'new', 'no_speech', 'beams', 'patience', 'penalty', 'style', 'edit')
)
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
  rows = logits.shape[0]
  openai = style == 'openai'
  kept = round(beams * patience) if openai else beams
  lengths = jnp.repeat(prompt.length, beams)
  at = jnp.arange(rows)[:, None]
  state = _State(
    tokens=jnp.full((rows, beams, new), rules.eot, jnp.int32),
    logp=jnp.full((rows, beams), WORST).at[:, 0].set(0.0),  # equal beams would stay equal
    logits=jnp.repeat(logits, beams, 0),
    cache=_repeated(cache, beams),
    done_tokens=jnp.full((rows, kept, new), rules.eot, jnp.int32),
    done_logp=jnp.full((rows, kept), WORST),
    done_count=jnp.zeros((rows, kept), jnp.int32),
    score=jnp.full((rows, kept), WORST),
    filled=jnp.zeros(rows, jnp.int32),
    closed=jnp.zeros(rows, bool),
    step=jnp.int32(0),
  )

  def score_of(logp, length):
    """length: tokens without the end."""
    if not openai:
      return logp / (length + 1) ** (1.0 if penalty is None else penalty)
    if penalty is None:
      return logp / jnp.maximum(length, 1)
    return logp / ((5 + length) / 6) ** penalty

  def advance(s: _State) -> _State:
    flat = s.tokens.reshape(rows * beams, new)
    count = jnp.full(rows * beams, s.step)
    if openai:
      logp = jax.nn.log_softmax(rules(s.logits, flat, count))
    else:
      logp = rules(jax.nn.log_softmax(s.logits), flat, count)
    vocab = logp.shape[-1]
    total = s.logp[:, :, None] + logp.reshape(rows, beams, vocab)
    # One end a beam at most, so 2 G candidates hold G that go on.
    top, index = jax.lax.top_k(total.reshape(rows, -1), 2 * beams)
    parent, token = index // vocab, index % vocab
    ends = token == rules.eot
    running_before = jnp.cumsum(~ends, -1) - ~ends
    counted = running_before < beams if openai else jnp.arange(2 * beams) < beams
    finishes = ends & counted & ~s.closed[:, None] & (top > WORST / 2)
    s = _finish(s, finishes, top, parent, score_of(top, s.step), first_come=openai)
    order = jnp.argsort(jnp.where(ends, 1, 0), -1, stable=True)[:, :beams]
    parent, token, logp = (x[at, order] for x in (parent, token, top))
    tokens = s.tokens[at, parent].at[:, :, s.step].set(token)
    chosen = (at * beams + parent).reshape(-1)
    positions = (lengths + s.step)[:, None]
    cache = _reordered(s.cache, chosen)
    out = decoder.forward(params, config, token.reshape(-1, 1), keys, positions=positions, cache=cache, edit=edit)
    best = score_of(logp[:, 0], s.step)
    full = s.filled >= kept
    closed = s.closed | (full if openai else full & (best <= s.score.min(-1)))
    return s.replace(
      tokens=tokens,
      logp=logp,
      logits=decoder.logits(params, out.hidden)[:, 0],
      cache=out.cache,
      closed=closed,
      step=s.step + 1,
    )

  last = config.text_length - prompt.length.max()  # rows of one batch have prompts of one length
  end = jax.lax.while_loop(lambda s: ~s.closed.all() & (s.step < new) & (s.step <= last), advance, state)
  end = _unfinished(end, score_of, kept=kept, always=openai)
  best = jnp.argmax(end.score, -1)[:, None]
  count = end.done_count[at, best][:, 0]
  return Decoded(
    tokens=end.done_tokens[at, best][:, 0],
    count=count,
    logp=end.done_logp[at, best][:, 0],
    no_speech=jax.nn.softmax(start)[:, no_speech],
    ended=count < new,
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
  k, v = jax.tree.map(lambda x: jnp.take(x, chosen, axis), (cache.k, cache.v))
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


def _unfinished(s: _State, score_of, *, kept: int, always: bool) -> _State:
  """Beams that reached the limit fill the empty places, best first; not `always`: only where nothing has ended."""
  beams = s.logp.shape[1]
  rank = jnp.arange(beams)
  room = rank < (jnp.minimum(kept, beams) - s.filled)[:, None]
  if not always:
    room &= (s.filled == 0)[:, None]
  score = jnp.where(room, score_of(s.logp, s.step - (0 if always else 1)), WORST)
  counts = jnp.broadcast_to(s.step, score.shape)
  return s.replace(
    done_tokens=jnp.concatenate([s.done_tokens, s.tokens], 1),
    done_logp=jnp.concatenate([s.done_logp, s.logp], 1),
    done_count=jnp.concatenate([s.done_count, counts], 1),
    score=jnp.concatenate([s.score, score], 1),
  )
