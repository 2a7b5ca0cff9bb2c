"""Per-token losses of tokens sampled by an older policy, one function a published rule.

Each takes delta = log π(y_t) − log π_old(y_t) and logp = log π(y_t), float [B, T] and 0 off the mask, the advantages
A [B, 1] or [B, T], the mask bool [B, T] and a `Rule` for its bounds. Each returns (loss before clipping, loss, ratio),
[B, T]; the first two differ where the clip is active.

B rows, on any number of leading axes   T tokens
"""

import jax
import jax.numpy as jnp

MAX_LOG_RATIO = 20.0
MAX_SEQUENCE_LOG_RATIO = 10.0  # verl's bound of the length-normalised ratio


def _ratio(delta):
  """r = exp(δ) of each token, with the exponent bounded so that no ratio overflows."""
  bounded = jnp.clip(delta, -MAX_LOG_RATIO, MAX_LOG_RATIO)
  return jnp.exp(bounded)


def _clip(ratio, advantages, rule):
  """(−A·r, max(−A·r, −A·clip(r, 1 − ε_low, 1 + ε_high))), the pessimistic bound of PPO (arXiv 1707.06347 eq. 7)."""
  plain = -advantages * ratio
  near = jnp.clip(ratio, 1 - rule.clip_low, 1 + rule.clip_high)
  clipped = -advantages * near
  return plain, jnp.maximum(plain, clipped)


def ppo(delta, logp, advantages, mask, rule):
  """Token ratios (arXiv 1707.06347 eq. 7); with `rule.dual_clip`, bounded where A < 0 (arXiv 1912.09729)."""
  ratio = _ratio(delta)
  plain, loss = _clip(ratio, advantages, rule)
  if rule.dual_clip is None:
    return plain, loss, ratio
  is_negative = advantages < 0
  bound = -advantages * rule.dual_clip
  loss = jnp.where(is_negative, jnp.minimum(loss, bound), loss)
  return plain, loss, ratio


def _sequence_log_ratio(delta, mask):
  """log s = (1/|y|) Σ_t δ_t, [B, 1] (GSPO, arXiv 2507.18071 eq. 7)."""
  length = jnp.maximum(mask.sum(-1, keepdims=True), 1)
  return delta.sum(-1, keepdims=True) / length


def gspo(delta, logp, advantages, mask, rule):
  """One length-normalised ratio a sequence (arXiv 2507.18071 eq. 5), the same at each of its tokens."""
  log_ratio = _sequence_log_ratio(delta, mask)
  bounded = jnp.minimum(log_ratio, MAX_SEQUENCE_LOG_RATIO)
  ratio = jnp.broadcast_to(jnp.exp(bounded), delta.shape)
  plain, loss = _clip(ratio, advantages, rule)
  return plain, loss, ratio


def gspo_token(delta, logp, advantages, mask, rule):
  """The value of `gspo` with a separate gradient for each token: advantages may differ (arXiv 2507.18071 eq. 13)."""
  gradient_only = delta - jax.lax.stop_gradient(delta)  # 0, with the gradient of delta
  of_sequence = _sequence_log_ratio(delta, mask)
  log_ratio = jax.lax.stop_gradient(of_sequence) + gradient_only
  bounded = jnp.minimum(log_ratio, MAX_SEQUENCE_LOG_RATIO)
  ratio = jnp.exp(bounded)
  plain, loss = _clip(ratio, advantages, rule)
  return plain, loss, ratio


def cispo(delta, logp, advantages, mask, rule):
  """REINFORCE with a clipped, detached ratio: no token loses its gradient (MiniMax-M1, arXiv 2506.13585 eq. 4)."""
  ratio = _ratio(delta)
  clipped = jnp.clip(ratio, 1 - rule.clip_low, 1 + rule.clip_high)

  def weighted(r):
    return -jax.lax.stop_gradient(r) * advantages * logp

  return weighted(ratio), weighted(clipped), ratio


SURROGATES = {f.__name__: f for f in (ppo, gspo, gspo_token, cispo)}
