"""Log-probabilities of tokens from final hidden states, without the logits of all positions at once.

B batch   T time   D width   V vocabulary
"""

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
  held whole. Chunks are strided over time, so each chunk stays sharded over the sequence axis.
  """
  if isinstance(params.head, jax.Array):  # gathered over the batch axes once, not in every chunk
    params = params.replace(head=constrain(params.head, (None, 'vocab'), rules))

  @jax.checkpoint
  def one(args):
    h, y = args
    z = logits(params, config, constrain(h, ('batch', 'time', None), rules)) / temperature
    z = constrain(z, ('batch', 'time', 'vocab'), rules)
    norm = jax.nn.logsumexp(z, -1)
    chosen = jnp.take_along_axis(z, y[..., None], -1)[..., 0]
    return chosen - norm, norm - jnp.sum(jax.nn.softmax(z, -1) * z, -1)

  b, t = targets.shape
  if t <= chunk:
    return one((hidden, targets))
  count = -(-t // chunk)

  def split(x):
    x = pad(jnp.asarray(x), count * chunk, axis=1)
    return jnp.moveaxis(x.reshape(b, chunk, count, *x.shape[2:]), 2, 0)

  out = jax.lax.map(one, (split(hidden), split(targets)))
  return jax.tree.map(lambda a: jnp.moveaxis(a, 0, 2).reshape(b, -1)[:, :t], out)
