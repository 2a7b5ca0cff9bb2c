"""DPO, BCO and MPO: worked values, finite differences in float64, the running shift, any number of micro-batches."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core.params import Spec
from core.training import optim, steps
from core.training.run import Run, loop
from rl import losses
from rl.losses import Mpo, RewardShift

LN2 = math.log(2)


def draw(seed=0, pairs=8, t=6):
  rng = np.random.default_rng(seed)
  logp = -rng.exponential(1.0, (pairs, 2, t))
  mask = np.arange(t) < rng.integers(1, t + 1, (pairs, 2, 1))
  reference = (logp * mask).sum(-1) + rng.normal(0, 5, (pairs, 2))
  return logp, mask, reference


def by_hand(logp, mask, reference, delta, beta=0.1):
  """Pair by pair in float64, δ already updated."""
  sigma = lambda x: 1 / (1 + math.exp(-x))
  preference = quality = generation = tokens = 0.0
  for lp, m, ref in zip(logp, mask, reference):
    a, b = (beta * (lp[k][m[k]].sum() - ref[k]) for k in (0, 1))
    preference -= math.log(sigma(a - b))
    quality -= math.log(sigma(a - delta)) + math.log(sigma(delta - b))
    generation -= lp[0][m[0]].sum()
    tokens += m[0].sum()
  return 0.8 * preference / len(logp) + 0.2 * quality / len(logp) + generation / tokens


def test_a_policy_equal_to_its_reference_starts_at_the_known_value():
  logp, mask, _ = map(jnp.asarray, draw())
  reference = jnp.where(mask, logp, 0).sum(-1)
  out = losses.mpo(logp, mask, reference, RewardShift.new())
  nll = float(-(logp[:, 0] * mask[:, 0]).sum() / mask[:, 0].sum())
  assert float(out.total / out.weight) == pytest.approx(0.8 * LN2 + 0.2 * 2 * LN2 + nll, abs=1e-5)
  parts = {k: float(s / w) for k, (s, w) in out.metrics.items()}
  assert parts['preference'] == pytest.approx(LN2, abs=1e-6) and parts['quality'] == pytest.approx(2 * LN2, abs=1e-6)
  assert parts['generation'] == pytest.approx(nll, abs=1e-5) and float(out.carry.mean) == 0


@pytest.mark.slow
def test_value_and_gradient_against_finite_differences_in_float64():
  shift = RewardShift(0.3, 5.0)

  def value(logp, mask, reference):
    out = losses.mpo(logp, mask, reference, shift)
    return out.total / out.weight, out.carry

  for seed in range(3):
    logp, mask, reference = draw(seed, pairs=3, t=4)
    with jax.enable_x64(True):
      (got, carry), grad = jax.value_and_grad(value, has_aux=True)(jnp.asarray(logp), mask, reference)
    # δ is a mean over earlier pairs too, and takes no gradient.
    delta = (0.3 * 5 + (0.1 * ((logp * mask).sum(-1) - reference)).mean() * 3) / 8
    assert float(carry.mean) == pytest.approx(delta, abs=1e-6) and float(carry.pairs) == 8
    assert float(got) == pytest.approx(by_hand(logp, mask, reference, float(carry.mean)), rel=1e-12)
    for at in np.ndindex(logp.shape):
      step = np.zeros_like(logp)
      step[at] = 1e-6
      up, down = (by_hand(logp + s, mask, reference, float(carry.mean)) for s in (step, -step))
      assert float(grad[at]) == pytest.approx((up - down) / 2e-6, abs=1e-8)


def test_dpo_against_its_gradient_in_the_paper():
  """∇ = −β·σ(b − a) for the chosen answer and + for the rejected one (arXiv 2305.18290 §4)."""
  rewards = jnp.array([[0.4, -0.1], [-2.0, 3.0]])
  grad = jax.grad(lambda r: losses.dpo(r).sum())(rewards)
  weight = jax.nn.sigmoid(rewards[:, 1] - rewards[:, 0])
  np.testing.assert_allclose(grad, jnp.stack([-weight, weight], 1), atol=1e-6)
  np.testing.assert_allclose(losses.dpo(rewards, 0.5), losses.dpo(rewards[:, ::-1], 0.5), atol=1e-6)


# Three batches in a row through `DPOTrainer.dpo_loss` of trl 0.21.0, beta 0.1, in float64: summed log-probabilities
# (chosen, rejected, reference of each), losses 'sigmoid', the same smoothed by 0.25, 'bco_pair', running mean after.
TRL = [
  (
    [
      [-19.5, -20.53, -17.44, -19.58],
      [-22.14, -18.55, -14.78, -16.21],
      [-22.81, -25.06, -22.49, -19.83],
      [-29.3, -20.88, -24.98, -22.93],
    ],
    [0.9040620, 0.5891850, 0.9834403, 1.0680853],
    [0.8078120, 0.6441850, 0.8546903, 0.9063353],
    [1.5882543, 1.2850237, 1.6779533, 1.7410230],
    0.4943750,
  ),
  (
    [
      [-22.18, -21.27, -18.35, -15.83],
      [-20.51, -14.53, -22.66, -18.59],
      [-16.39, -19.62, -22.97, -23.69],
      [-21.83, -19.12, -24.04, -20.84],
    ],
    [1.1105495, 1.0530494, 0.5442122, 0.4514820],
    [0.9327995, 0.8970494, 0.6252122, 0.5917320],
    [1.8487950, 1.7314507, 1.2312127, 1.1322450],
    0.3383125,
  ),
  (
    [
      [-20.64, -17.84, -19.14, -18.58],
      [-22.62, -20.52, -16.86, -14.03],
      [-25.04, -13.94, -14.62, -16.87],
      [-18.94, -21.26, -14.17, -12.16],
    ],
    [0.3686273, 0.9518212, 0.7888275, 0.6851792],
    [0.5706273, 0.8358212, 0.7430775, 0.6891792],
    [1.0271585, 1.6582111, 1.5494018, 1.4086788],
    0.1704167,
  ),
]


def test_dpo_bco_and_the_running_shift_against_trl():
  shift = RewardShift.new()
  for sums, sigmoid, smoothed, bco_pair, mean in TRL:
    chosen, rejected, ref_chosen, ref_rejected = jnp.array(sums)
    rewards = 0.1 * jnp.stack([chosen - ref_chosen, rejected - ref_rejected], 1)
    shift = shift.update(rewards, jnp.ones(4, bool))
    assert float(shift.mean) == pytest.approx(mean, abs=1e-6)
    np.testing.assert_allclose(losses.dpo(rewards), sigmoid, atol=2e-6)
    np.testing.assert_allclose(losses.dpo(rewards, 0.25), smoothed, atol=2e-6)
    np.testing.assert_allclose(losses.bco(rewards, shift.mean), bco_pair, atol=2e-6)


def test_shift_is_the_cumulative_mean_of_batch_means():
  rng = np.random.default_rng(0)
  shift, means = RewardShift.new(), []
  for _ in range(5):
    rewards = rng.normal(2, 1, (4, 2)).astype(np.float32)
    means.append(rewards.mean())
    shift = shift.update(jnp.asarray(rewards), jnp.ones(4, bool))
    assert float(shift.mean) == pytest.approx(np.mean(means), abs=1e-6)


def test_padding_pairs_change_nothing():
  logp, mask, reference = map(jnp.asarray, draw(1))
  pad = lambda x, value: jnp.concatenate([x, jnp.full((3, *x.shape[1:]), value, x.dtype)])
  a = losses.mpo(logp, mask, reference, RewardShift.new())
  b = losses.mpo(pad(logp, jnp.nan), pad(mask, False), pad(reference, jnp.inf), RewardShift.new())
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)):
    np.testing.assert_allclose(x, y, rtol=1e-6)


def test_extreme_rewards_stay_finite():
  big = jnp.array([[1e4, -1e4], [-1e4, 1e4]])
  for term in (losses.dpo, lambda r: losses.bco(r, jnp.float32(0))):
    value, grad = jax.value_and_grad(lambda r, term=term: term(r).sum())(big)
    assert np.isfinite(value) and np.isfinite(grad).all()


@pytest.mark.parametrize('field,value', [('beta', 0.0), ('preference', -1.0), ('generation', -0.1)])
def test_an_impossible_mixture_is_refused_by_name(field, value):
  with pytest.raises(ValueError, match=field):
    Mpo(**{field: value})


def mpo_run(workdir, n, accumulate=1, every=2):
  """MPO of a table of logits: n updates on pairs that depend on the step alone."""
  tx = optim.optimizer(optim.Optim(lr=0.1, schedule='constant'), 100, {'w': Spec((5, 7), (None, None))})

  def loss(params, batch, key, shift):
    logp = jax.nn.log_softmax(params['w'])[jnp.arange(5), batch['tokens']]
    return losses.mpo(logp, batch['mask'], batch['reference'], shift, token_weight=batch['weight'])

  step = steps.make_step(loss, tx, accumulate=accumulate)

  def advance(state, i):
    rng = np.random.default_rng(i)
    mask = jnp.asarray(np.arange(5) < rng.integers(1, 6, (8, 2, 1)))
    batch = {
      'tokens': jnp.asarray(rng.integers(0, 7, (8, 2, 5))),
      'mask': mask,
      'reference': jnp.asarray(rng.normal(-8, 3, (8, 2)), jnp.float32),
      'weight': losses.token_weight_of(mask),
    }
    return step(state, None, batch, jax.random.key(0))

  start = steps.init_state({'w': jnp.zeros((5, 7))}, tx, RewardShift.new())
  with Run(workdir, {}, every=every) as run:
    return loop(run, start, advance, n)


@pytest.mark.slow
def test_the_shift_is_restored_on_resume(tmp_path):
  whole = mpo_run(tmp_path / 'whole', 5)
  mpo_run(tmp_path / 'cut', 3)
  cut = mpo_run(tmp_path / 'cut', 5)
  for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(cut)):
    np.testing.assert_array_equal(a, b)
  assert float(cut.carry.pairs) == 40 and float(cut.carry.mean) != 0
  for name in ('metrics.jsonl',):
    assert (tmp_path / 'whole' / name).read_bytes() == (tmp_path / 'cut' / name).read_bytes()


@pytest.mark.slow
def test_micro_batches_update_the_shift_one_by_one_and_generation_stays_exact(tmp_path):
  one, four = (mpo_run(tmp_path / str(k), 1, accumulate=k) for k in (1, 4))
  # Equal shares: after each update the shift is the same mean for every split.
  assert float(one.carry.mean) == pytest.approx(float(four.carry.mean), abs=1e-6)
  logp, mask, reference = draw(3)
  parts = lambda x: [x[i::4] for i in range(4)]
  weight = losses.token_weight_of(jnp.asarray(mask))
  shift, total, generation = RewardShift.new(), 0.0, 0.0
  for rows in zip(*map(parts, (logp, mask, reference, weight))):
    out = losses.mpo(*map(jnp.asarray, rows[:3]), shift, token_weight=rows[3])
    shift, total, generation = out.carry, total + out.weight, generation + out.metrics['generation'][0]
  want = -(logp[:, 0] * mask[:, 0]).sum() / mask[:, 0].sum()
  assert float(generation / total) == pytest.approx(want, abs=1e-6)
