"""Policy losses: worked values, identities, gradients against finite differences, invariance to micro-batches."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rl import advantages, losses
from rl.losses import RULES, Rule


def draw(seed=0, b=6, t=5):
  rng = np.random.default_rng(seed)
  logp = -rng.exponential(1.0, (b, t))
  old = logp + rng.normal(0, 0.4, (b, t))
  mask = rng.random((b, t)) < 0.7
  mask[0] = False  # a row without tokens
  return logp, old, rng.normal(0, 1, (b, 1)), mask


def mean(loss):
  return loss.total / loss.weight


def reference(logp, old, adv, mask, rule):
  """Token by token, in float64."""
  rows = []
  for i in range(logp.shape[0]):
    row = []
    for j in range(logp.shape[1]):
      if mask[i, j]:
        ratio = math.exp(logp[i, j] - old[i, j])
        clipped = min(max(ratio, 1 - rule.clip_low), 1 + rule.clip_high)
        value = max(-adv[i, 0] * ratio, -adv[i, 0] * clipped)
        if rule.dual_clip is not None and adv[i, 0] < 0:
          value = min(value, -adv[i, 0] * rule.dual_clip)
        row.append(value)
    if row:
      rows.append(row)
  if rule.aggregation == 'token':
    return sum(map(sum, rows)) / sum(map(len, rows))
  return sum(sum(r) / len(r) for r in rows) / len(rows)


@pytest.mark.parametrize('name', RULES)
def test_equals_the_formula_token_by_token_in_float64(name):
  for seed in range(5):
    args = draw(seed)
    got = mean(losses.policy_loss(*map(jnp.asarray, args), rule=RULES[name]))
    assert float(got) == pytest.approx(reference(*args, RULES[name]), abs=1e-5)


def test_gradient_equals_finite_differences():
  logp, old, adv, mask = draw(3)
  rule = dataclasses.replace(RULES['dapo'], dual_clip=3.0)
  grad = jax.grad(lambda x: mean(losses.policy_loss(x, *map(jnp.asarray, (old, adv, mask)), rule=rule)))(
      jnp.asarray(logp))
  for i, j in np.ndindex(logp.shape):
    up, down = logp.copy(), logp.copy()
    up[i, j] += 1e-6
    down[i, j] -= 1e-6
    want = (reference(up, old, adv, mask, rule) - reference(down, old, adv, mask, rule)) / 2e-6
    assert float(grad[i, j]) == pytest.approx(want, abs=1e-5)


def test_dual_clip_caps_the_loss_of_bad_tokens():
  args = (jnp.log(jnp.array([[50.0]])), jnp.zeros((1, 1)), jnp.array([[-2.0]]), jnp.ones((1, 1), bool))
  assert float(mean(losses.policy_loss(*args, rule=Rule(dual_clip=3.0)))) == pytest.approx(6.0)
  assert float(mean(losses.policy_loss(*args, rule=Rule(dual_clip=None)))) == pytest.approx(100.0, rel=1e-5)


@pytest.mark.parametrize('aggregation', ['token', 'sequence'])
def test_first_update_has_ratio_one_and_the_policy_gradient(aggregation):
  logp, _, adv, mask = map(jnp.asarray, draw())
  rule = Rule(aggregation=aggregation)
  run = lambda x: losses.policy_loss(x, jax.lax.stop_gradient(x), adv, mask, rule=rule)
  loss = run(logp)
  assert float(loss.metrics['ratio'][0] / loss.metrics['ratio'][1]) == 1.0
  assert float(loss.metrics['clipped'][0]) == 0.0
  plain = lambda x: losses.aggregate(-adv * x, mask, aggregation)
  want = jax.grad(lambda x: plain(x)[0] / plain(x)[1])(logp)
  np.testing.assert_allclose(jax.grad(lambda x: mean(run(x)))(logp), want, atol=1e-6)


@pytest.mark.parametrize('name', RULES)
def test_sums_over_micro_batches_are_the_whole_batch(name):
  args = [jnp.asarray(a) for a in draw(1)]
  whole = losses.policy_loss(*args, rule=RULES[name])
  parts = [losses.policy_loss(*(a[i:i + 2] for a in args), rule=RULES[name]) for i in (0, 2, 4)]
  total, weight = (sum(getattr(p, k) for p in parts) for k in ('total', 'weight'))
  assert float(total / weight) == pytest.approx(float(mean(whole)), abs=1e-6)


def test_padding_changes_nothing_even_when_it_is_not_finite():
  logp, old, adv, mask = map(jnp.asarray, draw())
  junk = jnp.where(mask, logp, jnp.nan)
  for rule in RULES.values():
    a = losses.policy_loss(logp, old, adv, mask, rule=rule)
    b = losses.policy_loss(junk, old, adv, mask, rule=rule)
    assert float(a.total) == pytest.approx(float(b.total), abs=1e-6)


def test_kl_estimators_by_hand():
  d = 0.5
  estimate = lambda k: float(losses.kl(jnp.float32(d), jnp.float32(0), k))
  assert estimate('k1') == pytest.approx(0.5)
  assert estimate('k2') == pytest.approx(0.125)
  assert estimate('k3') == pytest.approx(math.exp(-0.5) - 1 + 0.5, abs=1e-6)
  assert float(losses.kl(jnp.float32(-50), jnp.float32(0), 'k3')) == 10.0


def test_kl_estimators_agree_with_the_divergence_in_expectation():
  p, q = np.array([0.5, 0.3, 0.2]), np.array([0.25, 0.25, 0.5])
  true = float((p * np.log(p / q)).sum())
  for name in ('k1', 'k3'):
    per_token = np.asarray(losses.kl(jnp.log(jnp.asarray(p)), jnp.log(jnp.asarray(q)), name))
    assert (p * per_token).sum() == pytest.approx(true, abs=1e-5)


def test_kl_term_enters_the_loss_with_its_weight():
  logp, old, adv, mask = map(jnp.asarray, draw())
  ref = logp - 0.3
  base = mean(losses.policy_loss(logp, old, adv, mask, rule=Rule(kl='k1')))
  more = mean(losses.policy_loss(logp, old, adv, mask, rule=Rule(kl='k1', kl_coef=2.0), ref_logp=ref))
  assert float(more - base) == pytest.approx(0.6, abs=1e-5)
  with pytest.raises(ValueError, match='ref_logp'):
    losses.policy_loss(logp, old, adv, mask, rule=Rule(kl_coef=1.0))


@pytest.mark.parametrize('field,value', [('clip_low', 1.5), ('clip_high', -1.0), ('dual_clip', 0.5),
                                         ('aggregation', 'median'), ('kl', 'k4')])
def test_an_impossible_rule_is_refused_by_name(field, value):
  with pytest.raises(ValueError, match=field):
    Rule(**{field: value})


def test_grpo_advantages_by_hand():
  rewards = jnp.array([[1.0, 0, 0, 0], [1, 1, 1, 1], [1, 1, 0, 0]])
  got = np.asarray(advantages.grpo(rewards))
  np.testing.assert_allclose(got[0], [1.5, -0.5, -0.5, -0.5], atol=1e-4)  # std 0.5 with n-1
  assert (got[1] == 0).all()
  np.testing.assert_allclose(got[2], np.array([1, 1, -1, -1]) * 0.5 / np.sqrt(1 / 3), atol=1e-4)
  np.testing.assert_allclose(advantages.grpo(jnp.array([[0.7]])), [[0.7]])


def test_grpo_ignores_the_scale_and_offset_of_rewards():
  rewards = jax.random.normal(jax.random.key(0), (5, 8))
  np.testing.assert_allclose(advantages.grpo(rewards), advantages.grpo(3 * rewards + 2), atol=1e-4)
