"""Policy losses: formulas and finite differences in float64, identities, invariance to micro-batches."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rl import losses
from rl.losses import RULES, Kl, Rule


def draw(seed=0, b=6, t=5):
  rng = np.random.default_rng(seed)
  logp = -rng.exponential(1.0, (b, t))
  old = logp + rng.normal(0, 0.4, (b, t))
  mask = rng.random((b, t)) < 0.7
  mask[0] = False  # a row without tokens
  return logp, old, rng.normal(0, 1, (b, 1)), mask


def mean(loss):
  return loss.total / loss.weight


def surrogate(logp, old, adv, rule, at):
  """Loss of each token of one row, in float64; `at` stands where the rule stops the gradient."""
  delta, there = logp - old, at - old
  low, high = 1 - rule.clip_low, 1 + rule.clip_high
  if rule.surrogate == 'cispo':
    return [-min(max(math.exp(d), low), high) * adv * x for d, x in zip(there, logp)]
  if rule.surrogate == 'ppo':
    ratios = [math.exp(d) for d in delta]
  elif rule.surrogate == 'gspo':
    ratios = [math.exp(delta.mean())] * len(delta)
  else:
    ratios = [math.exp(there.mean() + x - y) for x, y in zip(logp, at)]
  losses_ = [max(-adv * r, -adv * min(max(r, low), high)) for r in ratios]
  cap = -adv * rule.dual_clip if rule.dual_clip is not None and adv < 0 else math.inf
  return [min(x, cap) for x in losses_]


def loss_of(logp, old, adv, mask, rule, **more):
  return mean(losses.policy_loss(logp, old, adv, mask, rule=rule, **more))


def reference(logp, old, adv, mask, rule, at=None):
  """Row by row and token by token, in float64."""
  at = logp if at is None else at
  rows = [surrogate(logp[i][m], old[i][m], adv[i, 0], rule, at[i][m]) for i, m in enumerate(mask) if m.any()]
  if rule.aggregation == 'token':
    return sum(map(sum, rows)) / sum(map(len, rows))
  share = {'sequence': len, 'sequence_sum': lambda _: 1, 'constant': lambda _: rule.length}[rule.aggregation]
  return sum(sum(r) / share(r) for r in rows) / len(rows)


EVERY = list(RULES.values()) + [
  dataclasses.replace(RULES['dapo'], dual_clip=3.0),
  Rule(aggregation='sequence_sum'),
  Rule(aggregation='constant', length=7),
  Rule('gspo', clip_low=0.1, clip_high=0.1, dual_clip=None, aggregation='sequence'),
  Rule('gspo_token', clip_low=0.1, clip_high=0.1, dual_clip=None),
  Rule('cispo', clip_low=0.1, clip_high=0.1, dual_clip=None, aggregation='sequence'),
]


@pytest.mark.parametrize('rule', EVERY, ids=lambda r: f'{r.surrogate}-{r.aggregation}-{r.clip_high:g}')
def test_value_and_gradient_against_finite_differences_in_float64(rule):
  for seed in range(3):
    logp, old, adv, mask = draw(seed)
    with jax.enable_x64(True):
      value, grad = jax.value_and_grad(loss_of)(jnp.asarray(logp), old, adv, mask, rule)
    assert value.dtype == jnp.float64
    assert float(value) == pytest.approx(reference(logp, old, adv, mask, rule), rel=1e-12, abs=1e-12)
    for i, j in np.ndindex(logp.shape):
      step = np.zeros_like(logp)
      step[i, j] = 1e-6
      want = reference(logp + step, old, adv, mask, rule, logp) - reference(logp - step, old, adv, mask, rule, logp)
      assert float(grad[i, j]) == pytest.approx(want / 2e-6, abs=1e-8)


def test_gspo_and_gspo_token_have_one_value_and_one_gradient():
  args = [jnp.asarray(a) for a in draw(2)]
  for clip in (3e-4, 0.2):
    rules = [dataclasses.replace(RULES[name], clip_low=clip, clip_high=clip) for name in ('gspo', 'gspo_token')]
    for a, b in zip(*(jax.value_and_grad(loss_of)(*args, rule) for rule in rules)):
      np.testing.assert_allclose(a, b, atol=1e-6)


def test_gspo_of_rows_of_one_token_is_ppo():
  logp, old, adv, _ = map(jnp.asarray, draw(4, t=1))
  mask = jnp.ones(logp.shape, bool)
  of = lambda name: loss_of(logp, old, adv, mask, Rule(name, dual_clip=None))
  assert float(of('gspo')) == pytest.approx(float(of('ppo')), abs=1e-6)


def test_truncated_importance_weighs_tokens_without_a_gradient():
  logp, old, adv, mask = map(jnp.asarray, draw(5))
  rule = dataclasses.replace(RULES['dapo'], importance_cap=2.0)
  rollout = old - jnp.log(jnp.where(jnp.arange(5) % 2, 4.0, 0.5))  # weights 2 (capped from 4) and 0.5
  weights = jnp.where(jnp.arange(5) % 2, 2.0, 0.5) * jnp.ones_like(logp)
  np.testing.assert_allclose(losses.truncated_importance(old, rollout, 2.0), weights, rtol=1e-5)
  got = jax.value_and_grad(loss_of)(logp, old, adv, mask, rule, rollout_logp=rollout)
  want = jax.value_and_grad(loss_of)(logp, old, adv * weights, mask, RULES['dapo'])
  for a, b in zip(got, want):
    np.testing.assert_allclose(a, b, atol=1e-6)
  with pytest.raises(ValueError, match='rollout_logp'):
    losses.policy_loss(logp, old, adv, mask, rule=rule)


def test_dual_clip_caps_the_loss_of_bad_tokens():
  args = (jnp.log(jnp.array([[50.0]])), jnp.zeros((1, 1)), jnp.array([[-2.0]]), jnp.ones((1, 1), bool))
  assert float(mean(losses.policy_loss(*args, rule=Rule(dual_clip=3.0)))) == pytest.approx(6.0)
  assert float(mean(losses.policy_loss(*args, rule=Rule(dual_clip=None)))) == pytest.approx(100.0, rel=1e-5)


@pytest.mark.parametrize('aggregation', ['token', 'sequence', 'sequence_sum'])
@pytest.mark.parametrize('surrogate', losses.SURROGATES)
def test_first_update_has_ratio_one_and_the_policy_gradient(aggregation, surrogate):
  logp, _, adv, mask = map(jnp.asarray, draw())
  rule = Rule(surrogate, dual_clip=None, aggregation=aggregation)
  run = lambda x: losses.policy_loss(x, None, adv, mask, rule=rule)
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
  parts = [losses.policy_loss(*(a[i : i + 2] for a in args), rule=RULES[name]) for i in (0, 2, 4)]
  total, weight = (sum(getattr(p, k) for p in parts) for k in ('total', 'weight'))
  assert float(total / weight) == pytest.approx(float(mean(whole)), abs=1e-6)


@pytest.mark.parametrize('name', RULES)
def test_padding_changes_nothing_even_when_it_is_not_finite(name):
  logp, old, adv, mask = map(jnp.asarray, draw())
  rule = dataclasses.replace(RULES[name], kl=Kl(0.1), importance_cap=2.0)

  def run(junk):
    args = [jnp.where(mask, x, junk) for x in (logp, old, adv * jnp.ones_like(logp), logp - 0.3, old + 0.1)]
    return jax.value_and_grad(
      lambda x: mean(losses.policy_loss(x, *args[1:3], mask, rule=rule, ref_logp=args[3], rollout_logp=args[4]))
    )(args[0])

  for a, b in zip(run(0.0), run(jnp.nan)):
    np.testing.assert_allclose(a, b, atol=1e-6)


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
  base = mean(losses.policy_loss(logp, old, adv, mask, rule=Rule(kl=Kl(estimator='k1'))))
  more = mean(losses.policy_loss(logp, old, adv, mask, rule=Rule(kl=Kl(2.0, 'k1')), ref_logp=ref))
  assert float(more - base) == pytest.approx(0.6, abs=1e-5)
  with pytest.raises(ValueError, match='ref_logp'):
    losses.policy_loss(logp, old, adv, mask, rule=Rule(kl=Kl(1.0)))


@pytest.mark.parametrize(
  'field,value',
  [
    ('clip_low', 1.5),
    ('clip_high', -1.0),
    ('dual_clip', 0.5),
    ('aggregation', 'median'),
    ('surrogate', 'gpo'),
    ('length', 5),
    ('importance_cap', 0.0),
    ('clip_low', math.nan),
    ('clip_high', math.inf),
    ('dual_clip', math.nan),
    ('importance_cap', math.nan),
  ],
)
def test_an_impossible_rule_is_refused_by_name(field, value):
  with pytest.raises(ValueError, match=field):
    Rule(**{field: value})


@pytest.mark.parametrize('field,value', [('coef', -1.0), ('coef', math.nan), ('estimator', 'k4'), ('where', 'both')])
def test_an_impossible_kl_is_refused_by_name(field, value):
  with pytest.raises(ValueError, match=field):
    Kl(**{field: value})


def test_a_kl_in_the_reward_leaves_the_loss_alone_but_is_reported():
  logp, old, adv, mask = map(jnp.asarray, draw())
  plain = losses.policy_loss(logp, old, adv, mask, rule=Rule())
  got = losses.policy_loss(logp, old, adv, mask, rule=Rule(kl=Kl(2.0, where='reward')), ref_logp=logp - 0.3)
  assert float(got.total) == float(plain.total)
  assert float(got.metrics['kl'][0] / got.metrics['kl'][1]) > 0
