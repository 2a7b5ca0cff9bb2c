"""What runs on the device: a run of prompt tokens, a segment of decoding, copies of pages.

R slots   C prompt tokens of one call   S tokens of a segment   T pages a segment may touch   V vocabulary   D width
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from core import decoder
from core.engine.sample import Sampling, pick
from core.mesh import constrain, partition
from core.past.pages import Pages
from kernels.tree.plan import Plan

STOPS = 8  # stop tokens a request may have
FEW = 8  # rows that a device draws for at a time
CHOICES = ('rows', None)  # axes of logits and of the table of allowed tokens


@struct.dataclass
class Slots:
  """The rows of a segment, one a slot."""

  token: Any  # int32 [R], the last one, not yet in the pages
  position: Any  # int32 [R], of that token
  limit: Any  # int32 [R], tokens still wanted; 0 where the slot is empty
  stops: Any  # int32 [R, STOPS], -1 where there is none
  sampling: Sampling
  pages: Any  # int32 [R, T], from the page of `position` on


@struct.dataclass
class Segment:
  """What a segment sampled: tokens int32 and logp float32 [R, S], and count int32 [R] of them."""

  tokens: Any
  logp: Any
  count: Any


@struct.dataclass
class _State:
  step: Any
  token: Any
  position: Any
  live: Any
  k: Any
  v: Any
  out: Segment


@functools.partial(jax.jit, static_argnames='config', donate_argnames=('k', 'v'))
def prefill(params, k, v, plan: Plan, tokens, positions, page, offset, features=None, given=None, *, config):
  """Writes keys and values of C prompt tokens, of one sequence or several, and returns the pools.

  tokens, positions, page, offset: int32 [C], as in `core.past.pages.Pages`. features: [C, D] takes the place of a
  token's embedding where `given` is true (images).
  """
  x = decoder.embed(params, tokens[:, None])
  if features is not None:
    x = jnp.where(given[:, None, None], features[:, None].astype(x.dtype), x)
  out = decoder.forward(params, config, x, positions=positions[:, None], cache=Pages(k, v, plan, page, offset))
  return out.cache.k, out.cache.v


def _pick(*args):
  """`core.engine.sample.pick`; under a mesh each device draws for rows of its own."""
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty:
    return _few_by_few(*args)
  whole = partition(args[0].shape, CHOICES, mesh)
  row = jax.P(whole[0])
  return jax.shard_map(_few_by_few, in_specs=(whole, row, row, whole), out_specs=row, check_vma=False)(*args)


def _few_by_few(*args):
  """`core.engine.sample.pick` a few rows at a time: sorting takes several times the memory of the logits."""
  few = math.gcd(args[0].shape[0], FEW)
  split = jax.tree.map(lambda x: x.reshape(-1, few, *x.shape[1:]), args)
  return jax.tree.map(jnp.ravel, jax.lax.map(lambda rows: pick(*rows), split))


@functools.partial(jax.jit, static_argnames=('config', 'segment'), donate_argnames=('k', 'v'))
def decode(params, k, v, plan: Plan, slots: Slots, allowed, *, config, segment: int):
  """Up to `segment` tokens for each slot, fewer when all are done: (pools k and v, Segment).

  The plan's pages hold all tokens up to the segment's last; its lengths are derived here, step by step. allowed:
  bool [R, V].
  """
  rows = jnp.arange(slots.token.shape[0])
  size = v[0].shape[2]
  first = slots.position // size

  def step(s: _State) -> _State:
    at = jnp.where(s.live, s.position, -1)
    page = jnp.where(s.live, slots.pages[rows, s.position // size - first], k[0].shape[0])
    cache = Pages(s.k, s.v, plan.replace(lengths=at + 1), page, s.position % size)
    out = decoder.forward(params, config, decoder.embed(params, s.token[:, None]), positions=at[:, None], cache=cache)
    # Pinned before they change places, or XLA gathers the head instead.
    logits = constrain(decoder.logits(params, config, out.hidden)[:, 0], ('batch', 'vocab'))
    drawn = _pick(logits, slots.sampling, s.position + 1, allowed)
    token, logp = (constrain(x, (None,)) for x in drawn)  # every process reads them
    count = s.out.count + s.live
    noted = Segment(
      s.out.tokens.at[:, s.step].set(jnp.where(s.live, token, 0)),
      s.out.logp.at[:, s.step].set(jnp.where(s.live, logp, 0)),
      count,
    )
    live = s.live & (count < slots.limit) & ~(token[:, None] == slots.stops).any(-1)
    return _State(
      s.step + 1, jnp.where(s.live, token, s.token), s.position + s.live, live, out.cache.k, out.cache.v, noted
    )

  blank = Segment(
    jnp.zeros((rows.size, segment), jnp.int32),
    jnp.zeros((rows.size, segment), jnp.float32),
    jnp.zeros(rows.size, jnp.int32),
  )
  start = _State(jnp.int32(0), slots.token, slots.position, slots.limit > 0, k, v, blank)
  end = jax.lax.while_loop(lambda s: (s.step < segment) & s.live.any(), step, start)
  return end.k, end.v, end.out


@functools.partial(jax.jit, donate_argnames=('k', 'v'))
def copy(k, v, source, target):
  """Pages `source` copied to pages `target`, int32 [n]; a target out of range copies nothing."""
  move = lambda pool: pool.at[target].set(pool[source], mode='drop')
  return jax.tree.map(move, k), jax.tree.map(move, v)


@functools.partial(jax.jit, donate_argnames='allowed')
def allow(allowed, slot, mask):
  """The table of allowed tokens with one slot's row replaced."""
  return constrain(allowed.at[slot].set(mask), CHOICES)
