"""Choosing a case as soft Q-learning: the memory-based MDP of Memento (arXiv 2508.16153) and its equations.

S states   C cases   A actions.  μ is the retrieval policy, the only part that is trained; the language model's
p(a|s,c) is part of the environment. `alpha` is the temperature of the entropy bonus.

Two corrections of the paper. Its temporal-difference target (eqs. 8, 10, 24) sums exp(Q), where its optimal policy
requires exp(Q/α). And M' in the target holds the *new* case, as Retain adds it, not the retrieved one.

The second half is Memento 2 (arXiv 2512.22716): retrieval relative to a prior that may choose no case at all.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import struct


def soft_value(q: jax.Array, alpha: float, valid: jax.Array | None = None) -> jax.Array:
  """V = α log Σ_c exp(Q_c / α) over the last axis, float32 [...]; the maximum at α = 0.

  valid: bool like q, false where there is no case. Without any case the value is -inf.
  """
  if valid is not None:
    q = jnp.where(valid, q, -jnp.inf)
  top = q.max(-1)
  if alpha == 0:
    return top
  soft = alpha * jax.nn.logsumexp(q / alpha, -1)
  return jnp.where(jnp.isfinite(top), soft, top)


def soft_policy(q: jax.Array, alpha: float, valid: jax.Array | None = None) -> jax.Array:
  """μ*(c|s,M) = exp(Q_c / α) / Σ exp(Q / α) over the last axis."""
  return jax.nn.softmax(q / alpha, -1, where=valid)


def policy_value(q: jax.Array, policy: jax.Array, alpha: float) -> jax.Array:
  """V(s,M) = Σ_c μ_c (Q_c - α log μ_c), of any policy."""
  entropy_terms = jax.scipy.special.xlogy(policy, policy)
  return jnp.sum(policy * q - alpha * entropy_terms, -1)


def td_target(
  reward: jax.Array,
  next_q: jax.Array,
  gamma: float,
  alpha: float,
  *,
  valid: jax.Array | None = None,
  last: jax.Array | bool = False,
) -> jax.Array:
  """y = r + γ α log Σ_{c'∈M'} exp(Q(s',M',c') / α). reward, last: [B]; next_q, valid: [B, C], M' after Retain.

  The target of a last step, and of one after which the memory is empty, is its reward.
  """
  value = soft_value(next_q, alpha, valid)
  ends = last | ~jnp.isfinite(value)
  return reward + gamma * jnp.where(ends, 0.0, value)


def td_update(q: jax.Array, state: jax.Array, case: jax.Array, target: jax.Array, rate: float) -> jax.Array:
  """Q(s,c) ← Q(s,c) + η (y - Q(s,c)) in a table [S, C], for one transition."""
  error = target - q[state, case]
  return q.at[state, case].add(rate * error)


@struct.dataclass
class MMDP:
  """A memory-based MDP small enough for tables, with a fixed memory."""

  model: jax.Array  # [S, C, A] p_LLM(a | s, c)
  reward: jax.Array  # [S, A] R(s, a)
  transition: jax.Array  # [S, A, S] P(s' | s, a); what a row lacks to 1 is the probability of ending


def bellman(world: MMDP, value: jax.Array, gamma: float) -> jax.Array:
  """Q(s,c) = Σ_a p_LLM(a|s,c) [R(s,a) + γ Σ_s' P(s'|s,a) V(s')], [S, C]."""
  action_values = world.reward + gamma * world.transition @ value
  return jnp.einsum('sca,sa->sc', world.model, action_values)


def overall_policy(world: MMDP, retrieval: jax.Array) -> jax.Array:
  """π(a|s,M) = Σ_c μ(c|s,M) p_LLM(a|s,c), [S, A]."""
  return jnp.einsum('sc,sca->sa', retrieval, world.model)


def value_iteration(world: MMDP, *, gamma: float, alpha: float, tolerance: float = 1e-6) -> jax.Array:
  """Q* [S, C]: the fixed point of `bellman` after `soft_value`, within `tolerance`.

  The map contracts by γ. Raises ValueError unless 0 <= γ < 1, which the iteration needs to converge.
  """
  if not 0 <= gamma < 1:
    raise ValueError(f'value_iteration: gamma={gamma}; expected 0 <= gamma < 1')

  def step(pair):
    _, q = pair
    return q, bellman(world, soft_value(q, alpha), gamma)

  def has_moved(pair):
    before, q = pair
    return jnp.abs(q - before).max() > tolerance * (1 - gamma)

  start = jnp.zeros(world.model.shape[:2])
  _, q = jax.lax.while_loop(has_moved, step, step((start, start)))
  return q


# Memento 2: a kernel prior with a void case, and improvement relative to it.


def kernel(distance2: jax.Array, bandwidth: float | jax.Array) -> jax.Array:
  """K(d / h) = exp(-d² / 2h²), of squared distances."""
  return jnp.exp(-distance2 / (2 * bandwidth**2))


def retrieval_prior(weights: jax.Array, void: float) -> jax.Array:
  """μ0 over [cases…, void]: kernel weights [..., C] and the void case's constant `void` (K_v), normalised.

  The void case, last, is the decision to act from the language model alone.
  """
  void_weight = jnp.full((*weights.shape[:-1], 1), void, weights.dtype)
  full = jnp.concatenate([weights, void_weight], -1)
  return full / full.sum(-1, keepdims=True)


def improve(prior: jax.Array, q: jax.Array, alpha: float) -> tuple[jax.Array, jax.Array]:
  """(μ⁺, V): μ⁺ ∝ μ0 exp(Q/α), V = α log Σ μ0 exp(Q/α), over the last axis.

  With a uniform prior over n cases μ⁺ is `soft_policy` and V is `soft_value` minus α log n.
  """
  logits = jnp.log(prior) + q / alpha
  policy = jax.nn.softmax(logits, -1)
  return policy, alpha * jax.nn.logsumexp(logits, -1)


# Episodic control: Q of a case as a kernel average over the states in which it was used.


@struct.dataclass
class Kernel:
  """k(s,s') = exp(-|W(e(s) - e(s'))|² / 2h²) on frozen embeddings; W [D', D] and log h are trained."""

  projection: jax.Array
  log_bandwidth: jax.Array


@struct.dataclass
class Episodes:
  """Episodic memory D, N entries: embeddings [N, D] of states, the case each used [N], the value stored [N].

  An entry with a negative case is empty, so that a memory can grow without a new compilation.
  """

  states: jax.Array
  cases: jax.Array
  values: jax.Array


@dataclasses.dataclass(frozen=True)
class Control:
  """Constants of kernel control: discount γ, temperature α, and the share β of the old target parameters to keep."""

  gamma: float = 0.9
  alpha: float = 0.1
  keep: float = 0.9


def log_kernel(params: Kernel, states: jax.Array, others: jax.Array) -> jax.Array:
  """log k of [B, D] against [N, D], [B, N]."""
  gap = (states[:, None] - others[None]) @ params.projection.T
  squared = jnp.sum(gap * gap, -1)
  return -squared / 2 * jnp.exp(-2 * params.log_bandwidth)


def episodic_q(params: Kernel, episodes: Episodes, states: jax.Array, cases: jax.Array) -> jax.Array:
  """Q_EC(s,M,c) = Σ_{i∈D_c} w_i Q_i, w_i = k(s,s_i) / Σ_{j∈D_c} k(s,s_j), for pairs [B, D], [B].

  A case that was never used gets the mean of all stored values, 0 in an empty memory.
  """
  is_same = cases[:, None] == episodes.cases[None]
  used = is_same.any(-1, keepdims=True)
  counted = jnp.where(used, is_same, episodes.cases[None] >= 0)
  logits = jnp.where(used, log_kernel(params, states, episodes.states), 0.0)
  masked = jnp.where(counted, logits, -1e30)  # finite, so that no row is NaN
  weights = jax.nn.softmax(masked, -1) * counted
  return weights @ episodes.values


def kernel_loss(params: Kernel, episodes: Episodes, states: jax.Array, cases: jax.Array, targets: jax.Array):
  """L(θ) = E[(Q_EC(s,M,c;θ) - y)²], with fixed y from the target parameters."""
  error = episodic_q(params, episodes, states, cases) - targets
  return jnp.mean(error**2)


def soft_copy(target: Kernel, params: Kernel, keep: float) -> Kernel:
  """θ̄ ← β θ̄ + (1 - β) θ."""
  return jax.tree.map(lambda old, new: keep * old + (1 - keep) * new, target, params)


def kernel_targets(
  target: Kernel,
  episodes: Episodes,
  rewards: jax.Array,
  next_states: jax.Array,
  last: jax.Array,
  bank: jax.Array,
  control: Control,
) -> jax.Array:
  """y [B] of transitions: `td_target` of the episodic Q of every case in `bank` [C] at the next states [B, D]."""

  def q_of(case):
    return episodic_q(target, episodes, next_states, jnp.full(len(next_states), case))

  q = jax.vmap(q_of, out_axes=1)(bank)
  return td_target(rewards, q, control.gamma, control.alpha, last=last)
