"""Scores of final hidden states, without the logits of all positions at once: log-probabilities and divergence.

B batch   T time   D width   V vocabulary
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from core.decoder.model import logits
from core.decoder.params import Config, Params
from core.mesh import RULES, constrain
from core.padding import pad


def log_probs(
  params: Params,
  config: Config,
  hidden: jax.Array,
  targets: jax.Array,
  *,
  temperature: float = 1.0,
  chunk: int = 1024,
  rules=RULES,
) -> tuple[jax.Array, jax.Array]:
  """(log-probability of `targets`, entropy of the distribution), float32 [B, T], of logits over a temperature.

  The temperature divides float32 logits, as in the engine: scaling bfloat16 hidden states would round them once more.
  Time is cut into chunks of at most `chunk` tokens, recomputed in the backward pass, so the [B, T, V] logits are never
  held whole.
  """
  params = _gathered(params, rules)

  def one(hidden, targets):
    z = _logits(params, config, hidden, rules) / temperature
    z = constrain(z, ('batch', 'time', 'vocab'), rules)
    norm = jax.nn.logsumexp(z, -1)
    chosen = jnp.take_along_axis(z, targets[..., None], -1)[..., 0]
    mean = jnp.sum(jax.nn.softmax(z, -1) * z, -1)
    return chosen - norm, norm - mean

  return _in_chunks(one, (hidden, targets), chunk)


def kl(
  params: Params,
  config: Config,
  hidden: jax.Array,
  *,
  reference: Params,
  reference_hidden: jax.Array,
  chunk: int = 1024,
  rules=RULES,
) -> jax.Array:
  """KL(reference ‖ model) over the whole vocabulary at each position, float32 [B, T], no gradient to the reference.

  hidden, reference_hidden: final hidden states [B, T, D] of the model and of the reference. Chunks as in `log_probs`.
  """
  params = _gathered(params, rules)
  reference = _gathered(jax.lax.stop_gradient(reference), rules)

  def one(hidden, reference_hidden):
    logp = jax.nn.log_softmax(_logits(params, config, hidden, rules), -1)
    want = jax.nn.log_softmax(_logits(reference, config, reference_hidden, rules), -1)
    return jnp.sum(jnp.exp(want) * (want - logp), -1)

  return _in_chunks(one, (hidden, jax.lax.stop_gradient(reference_hidden)), chunk)


def _gathered(params: Params, rules) -> Params:
  """The head gathered over the batch axes once, not in every chunk."""
  if not isinstance(params.head, jax.Array):
    return params
  return params.replace(head=constrain(params.head, (None, 'vocab'), rules))


def _logits(params: Params, config: Config, hidden: jax.Array, rules) -> jax.Array:
  z = logits(params, config, constrain(hidden, ('batch', 'time', None), rules))
  return constrain(z, ('batch', 'time', 'vocab'), rules)


def _in_chunks(one: Callable[..., Any], arrays: tuple[jax.Array, ...], chunk: int) -> Any:
  """`one(*arrays)`, a tree of [B, T], computed over chunks of time of arrays [B, T, ...].

  Chunks are strided over time, so each chunk stays sharded over the sequence axis.
  """
  one = jax.checkpoint(one)
  b, t = arrays[0].shape[:2]
  if t <= chunk:
    return one(*arrays)
  count = -(-t // chunk)

  def split(x):
    x = pad(jnp.asarray(x), count * chunk, axis=1)
    strided = x.reshape(b, chunk, count, *x.shape[2:])
    return jnp.moveaxis(strided, 2, 0)

  out = jax.lax.map(lambda parts: one(*parts), tuple(map(split, arrays)))

  def joined(a):
    by_row = jnp.moveaxis(a, 0, 2).reshape(b, -1)
    return by_row[:, :t]

  return jax.tree.map(joined, out)
