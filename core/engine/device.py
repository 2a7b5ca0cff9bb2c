"""The programs on the device: prefill of prompt tokens, a segment of decoding, copies of pages.

R slots   C prompt tokens of one call   S tokens of a segment   T pages a segment may touch   V vocabulary   D width
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from core import decoder
from core import mesh as mesh_lib
from core.engine.layout import RULES
from core.engine.sampling import Sampling, likeliest, penalised, pick
from core.past import copied
from core.past.pages import Pages
from kernels.tree.plan import Plan

STOPS = 8  # end tokens that are checked on the device; the host checks further ones after the segment
GROUP = 8  # rows that draw at a time: sorting takes several times the memory of the logits
TABLE = ('rows', None)  # logical axes of logits and of the tables over the vocabulary

_constrain = functools.partial(mesh_lib.constrain, rules=RULES)


@struct.dataclass
class Tables:
  """Which tokens each slot may choose, and which its sequence has (for a repetition penalty), bool [R, V]."""

  allowed: Any
  seen: Any


@struct.dataclass
class Slots:
  """The sequences of a segment, one a slot."""

  token: Any  # int32 [R], the last one, not yet in the pages
  position: Any  # int32 [R], of that token
  limit: Any  # int32 [R], tokens still wanted; 0 where the slot is empty
  stops: Any  # int32 [R, STOPS], -1 where there is none
  sampling: Sampling
  pages: Any  # int32 [R, T], from the page of `position` on
  wants_top: Any  # bool [R], whether the likeliest tokens are asked for
  table: Any = None  # int32 [R, pages], all of each slot; if given, the segment reads and writes a contiguous copy


@struct.dataclass
class Segment:
  """What a segment sampled: tokens int32 and logp float32 [R, S], count int32 [R] of them, failed bool [R].

  failed: the logits after these tokens were NaN or infinite. top: the K likeliest tokens, int32, at each place and
  their log-probabilities, float32, [R, S, K] each, zeros where no slot wants them; None if K is 0.
  """

  tokens: Any
  logp: Any
  count: Any
  failed: Any
  top: tuple | None = None


@struct.dataclass
class _State:
  step: Any
  token: Any
  position: Any
  live: Any
  keys: Any  # the pools (k, v), or a `Cache` copied from them
  out: Segment


@functools.partial(jax.jit, static_argnames='config', donate_argnames=('k', 'v'))
def prefill(params, k, v, plan: Plan, tokens, positions, page, offset, features=None, given=None, *, config):
  """Writes keys and values of C prompt tokens, of one sequence or several, and returns the pools.

  tokens, positions, page, offset: int32 [C], as in `core.past.pages.Pages`. features: [C, D] replaces a token's
  embedding where `given` is true.
  """
  x = decoder.embed(params, tokens[:, None], RULES)
  if features is not None:
    is_given = given[:, None, None]
    x = jnp.where(is_given, features[:, None].astype(x.dtype), x)
  cache = Pages(k, v, plan, page, offset)
  out = decoder.forward(params, config, x, positions=positions[:, None], cache=cache, rules=RULES)
  return out.cache.k, out.cache.v


def _choose(logits: jax.Array, *rest, top: int):
  """`_choose_rows` for all rows; under a mesh each device draws for its own rows."""
  choose = functools.partial(_choose_in_groups, top=top)
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty:
    return choose(logits, *rest)
  table = mesh_lib.partition(logits.shape, TABLE, mesh, RULES)
  axis = table[0]
  row = jax.P(axis)
  said = jax.P(axis, None)
  specs = (table, row, row, table, said, row)  # in the order of `_choose_rows`
  choose = jax.shard_map(choose, in_specs=specs, out_specs=row, check_vma=False)
  return choose(logits, *rest)


def _choose_in_groups(*args, top: int):
  """`_choose_rows`, GROUP rows at a time."""
  rows, _ = args[0].shape
  size = math.gcd(rows, GROUP)
  groups = jax.tree.map(lambda x: x.reshape(-1, size, *x.shape[1:]), args)
  chosen = jax.lax.map(lambda group: _choose_rows(*group, top=top), groups)
  return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), chosen)


def _choose_rows(logits, sampling: Sampling, position, tables: Tables, said, wants_top, *, top: int):
  """(token, log-probability, likeliest tokens as `likeliest`, None if `top` is 0) of rows.

  said: int32 [rows, S], tokens of this segment, V where there is none yet.
  """

  def penalise():
    # The table is read only, or the loop would copy it at every step; the segment's own tokens are added here.
    row = jnp.arange(said.shape[0])[:, None]
    seen = tables.seen.at[row, said].set(True, mode='drop')
    return penalised(logits, seen, sampling.repetition_penalty)

  is_penalised = jnp.any(sampling.repetition_penalty != 1)
  choices = jax.lax.cond(is_penalised, penalise, lambda: logits)
  choices = jnp.where(tables.allowed, choices, -jnp.inf)
  token, logp = pick(logits, sampling, position, choices)
  if not top:
    return token, logp, None
  shape = (len(logits), top)
  nothing = _blank_top(shape)
  best = jax.lax.cond(wants_top.any(), lambda: likeliest(logits, sampling, top), lambda: nothing)
  return token, logp, best


def _blank_top(shape: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
  """Tokens and log-probabilities that nobody asked for."""
  return jnp.zeros(shape, jnp.int32), jnp.zeros(shape, jnp.float32)


def _said(out: Segment, vocab: int) -> jax.Array:
  """The segment's tokens so far, `vocab` (which scatters drop) where there is none."""
  place = jnp.arange(out.tokens.shape[1])
  is_said = place < out.count[:, None]
  return jnp.where(is_said, out.tokens, vocab)


def _record(out: Segment, step, live, token, logp, top) -> Segment:
  """The segment with one more token for each live row; a row whose log-probability is NaN fails instead."""
  failed = live & jnp.isnan(logp)
  kept = live & ~failed
  token = jnp.where(kept, token, 0)
  logp = jnp.where(kept, logp, 0)

  def written(all_steps, now):
    return all_steps.at[:, step].set(now)

  return Segment(
    tokens=written(out.tokens, token),
    logp=written(out.logp, logp),
    count=out.count + kept,
    failed=out.failed | failed,
    top=jax.tree.map(written, out.top, top),
  )


@functools.partial(jax.jit, static_argnames=('config', 'segment', 'top'), donate_argnames=('k', 'v', 'tables'))
def decode(params, k, v, plan: Plan, slots: Slots, tables: Tables, *, config, segment: int, top: int = 0):
  """Up to `segment` tokens for each slot, fewer when all have ended: (pools k and v, tables, Segment).

  The plan's pages hold all tokens up to the segment's last; its lengths are derived here, step by step. With
  `slots.table` nothing else of the plan is read. top: how many of the likeliest tokens are recorded at each place.
  """
  row = jnp.arange(slots.token.shape[0])
  pages, _, page_size, _ = v[0].shape
  first = slots.position // page_size

  def past(s: _State, at):
    if slots.table is not None:
      return s.keys
    depth = s.position // page_size - first
    page = jnp.where(s.live, slots.pages[row, depth], pages)
    offset = s.position % page_size
    return Pages(*s.keys, plan.replace(lengths=at + 1), page, offset)

  def step(s: _State) -> _State:
    at = jnp.where(s.live, s.position, -1)
    x = decoder.embed(params, s.token[:, None], RULES)
    out = decoder.forward(params, config, x, positions=at[:, None], cache=past(s, at), rules=RULES)
    # Constrained before the rows are sharded over all devices, or XLA gathers the head instead.
    logits = decoder.logits(params, config, out.hidden)[:, 0]
    logits = _constrain(logits, ('batch', 'vocab'))
    said = _said(s.out, config.vocab)
    wants_top = slots.wants_top & s.live
    drawn = _choose(logits, slots.sampling, s.position + 1, tables, said, wants_top, top=top)
    token, logp, best = jax.tree.map(_replicated, drawn)
    recorded = _record(s.out, s.step, s.live, token, logp, best)
    is_stop = (token[:, None] == slots.stops).any(-1)
    ended = (recorded.count >= slots.limit) | is_stop
    return _State(
      step=s.step + 1,
      token=jnp.where(s.live, token, s.token),
      position=s.position + s.live,
      live=s.live & ~recorded.failed & ~ended,
      keys=(out.cache.k, out.cache.v) if slots.table is None else out.cache,
      out=recorded,
    )

  def runs(s: _State):
    return (s.step < segment) & s.live.any()

  end = jax.lax.while_loop(runs, step, _start(k, v, slots, segment=segment, top=top))
  said = _said(end.out, config.vocab)
  seen = tables.seen.at[row[:, None], said].set(True, mode='drop')
  if slots.table is None:
    k, v = end.keys
  else:
    k, v = copied.returned(k, v, end.keys, slots.pages, first)
  return k, v, tables.replace(seen=_constrain(seen, TABLE)), end.out


def _replicated(x: jax.Array) -> jax.Array:
  """x on every device: every process reads what was drawn."""
  return _constrain(x, (None,) * x.ndim)


def _start(k, v, slots: Slots, *, segment: int, top: int) -> _State:
  """The state before the first token of a segment."""
  rows = slots.token.shape[0]
  out = Segment(
    tokens=jnp.zeros((rows, segment), jnp.int32),
    logp=jnp.zeros((rows, segment), jnp.float32),
    count=jnp.zeros(rows, jnp.int32),
    failed=jnp.zeros(rows, bool),
    top=_blank_top((rows, segment, top)) if top else None,
  )
  keys = (k, v)
  if slots.table is not None:
    keys = copied.gathered(k, v, slots.table, slots.position)
  return _State(
    step=jnp.int32(0),
    token=slots.token,
    position=slots.position,
    live=slots.limit > 0,
    keys=keys,
    out=out,
  )


@functools.partial(jax.jit, donate_argnames=('k', 'v'))
def copy(k, v, source, target):
  """Pages `source` copied to pages `target`, int32 [n]; a target out of range copies nothing."""

  def with_copies(pool):
    pages = pool[source]
    return pool.at[target].set(pages, mode='drop')

  return jax.tree.map(with_copies, k), jax.tree.map(with_copies, v)


@functools.partial(jax.jit, donate_argnames='tables')
def set_tables(tables: Tables, slot, allowed, seen) -> Tables:
  """The tables with one slot's rows replaced, bool [V] each."""
  replaced = Tables(
    allowed=tables.allowed.at[slot].set(allowed),
    seen=tables.seen.at[slot].set(seen),
  )
  return jax.tree.map(lambda x: _constrain(x, TABLE), replaced)
