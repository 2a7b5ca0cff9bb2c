"""Advantages: worked values, identities, samples left out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from rl import advantages


def test_grpo_by_hand():
  rewards = jnp.array([[1.0, 0, 0, 0], [1, 1, 1, 1], [1, 1, 0, 0]])
  got = np.asarray(advantages.grpo(rewards))
  np.testing.assert_allclose(got[0], [1.5, -0.5, -0.5, -0.5], atol=1e-4)  # std 0.5 with n-1
  assert (got[1] == 0).all()
  np.testing.assert_allclose(got[2], np.array([1, 1, -1, -1]) * 0.5 / np.sqrt(1 / 3), atol=1e-4)
  np.testing.assert_allclose(advantages.grpo(jnp.array([[0.7]])), [[0.7]])


def test_grpo_against_scipy_zscore():
  rewards = np.random.default_rng(0).normal(size=(7, 6)).astype(np.float32)
  np.testing.assert_allclose(advantages.grpo(rewards), scipy.stats.zscore(rewards, axis=1, ddof=1), atol=1e-4)


def test_grpo_ignores_the_scale_and_offset_of_rewards():
  rewards = jax.random.normal(jax.random.key(0), (5, 8))
  np.testing.assert_allclose(advantages.grpo(rewards), advantages.grpo(3 * rewards + 2), atol=1e-4)


def test_grpo_of_the_published_synthesis_example():
  """SvS (arXiv 2508.14029): four of eight variants rewarded."""
  got = advantages.grpo(jnp.array([[0.0, 1, 1, 1, 0, 0, 0, 1]]))
  np.testing.assert_allclose(np.abs(got), 0.935413, atol=2e-6)


def test_rloo_is_the_reward_less_the_mean_of_the_others():
  rewards = np.random.default_rng(1).normal(size=(4, 5)).astype(np.float32)
  others = (rewards.sum(1, keepdims=True) - rewards) / 4
  np.testing.assert_allclose(advantages.rloo(rewards), rewards - others, atol=1e-6)
  np.testing.assert_allclose(advantages.rloo(rewards), advantages.dr_grpo(rewards) * 5 / 4, atol=1e-6)
  np.testing.assert_allclose(advantages.rloo(rewards[:, :1]), rewards[:, :1])


@pytest.mark.parametrize('estimate', [advantages.grpo, advantages.dr_grpo, advantages.rloo])
def test_a_sample_left_out_counts_in_no_mean(estimate):
  rewards = jnp.array([[1.0, 0, 5, 0], [jnp.nan, 2, 3, jnp.inf]])
  valid = jnp.array([[True, True, False, True], [False, True, True, False]])
  got = np.asarray(estimate(rewards, valid))
  np.testing.assert_allclose(got[0, [0, 1, 3]], estimate(jnp.array([[1.0, 0, 0]]))[0], atol=1e-6)
  np.testing.assert_allclose(got[1, 1:3], estimate(jnp.array([[2.0, 3]]))[0], atol=1e-6)
  assert (got[~np.asarray(valid)] == 0).all()
  assert (np.asarray(estimate(rewards, jnp.zeros((2, 4), bool))) == 0).all()


def test_whitening_of_the_published_tree_example():
  """TreePO (arXiv 2508.17445): eight leaves of four tokens, before and after."""
  before = jnp.array([0.75, 0.75, -0.58333, -0.58333, -0.41667, -0.41667, 1.25, -0.75])
  after = [1.00949, 1.00949, -0.78516, -0.78516, -0.56083, -0.56083, 1.68249, -1.00949]
  got = advantages.whiten(jnp.broadcast_to(before[:, None], (8, 4)), jnp.ones((8, 4), bool))
  np.testing.assert_allclose(got[:, 0], after, atol=2e-5)


def test_whitening_weighs_tokens_and_forgets_what_is_masked():
  values = jnp.array([[1.0, 1, 1, jnp.nan], [4, jnp.nan, jnp.nan, jnp.nan]])
  mask = jnp.array([[True, True, True, False], [True, False, False, False]])
  got = advantages.whiten(values, mask)
  np.testing.assert_allclose(got[mask], scipy.stats.zscore([1.0, 1, 1, 4], ddof=1), atol=1e-5)
  assert (got[~mask] == 0).all()


def test_reinforce_pp_against_a_loop():
  rng = np.random.default_rng(2)
  mask = rng.random((3, 2, 6)) < 0.7
  mask[0, 0] = False
  rewards, divergence = rng.normal(size=(3, 2)), rng.normal(size=mask.shape)
  for gamma in (1.0, 0.9):
    returns = np.zeros(mask.shape)
    for i, j in np.ndindex(3, 2):
      at = np.flatnonzero(mask[i, j])
      later = 0.0
      for n, t in enumerate(at[::-1]):
        later = later * gamma - 0.1 * divergence[i, j, t] + (rewards[i, j] if n == 0 else 0)
        returns[i, j, t] = later
    want = scipy.stats.zscore(returns[mask], ddof=1)
    placed = advantages.token_rewards(jnp.asarray(rewards), jnp.asarray(mask), jnp.asarray(divergence), 0.1)
    got = np.asarray(advantages.reinforce_pp(placed, jnp.asarray(mask), gamma))
    np.testing.assert_allclose(got[mask], want, atol=1e-5)
    assert (got[~mask] == 0).all()


def test_reinforce_pp_baseline_whitens_centred_rewards_over_tokens():
  rewards, lengths = np.array([[1.0, 0, 0], [1, 1, 0]]), np.array([[3, 1, 2], [4, 2, 0]])
  mask = np.arange(4) < lengths[..., None]
  centred = np.array([[2 / 3, -1 / 3, -1 / 3], [0, 0, 0]])  # the last sample has no tokens and no say
  want = scipy.stats.zscore(np.broadcast_to(centred[..., None], mask.shape)[mask], ddof=1)
  got = np.asarray(advantages.reinforce_pp_baseline(jnp.asarray(rewards), jnp.asarray(mask)))
  np.testing.assert_allclose(got[mask], want, atol=1e-5)


# Vision-SR1 (arXiv 2508.19652): accuracy, format, accuracy and format of the description, of eight answers.
ACC, FMT = [1, 1, 0, 0, 1, 0, 0, 0], [1, 1, 1, 0, 1, 1, 0, 1]
DESC_ACC, DESC_FMT = [1, 0, 1, 0, 1, 0, 0, 1], [1, 1, 1, 1, 1, 0, 1, 1]


def test_decoupled_of_the_published_vision_sr1_example():
  kinds = np.array([ACC, FMT, DESC_ACC, DESC_FMT], np.float32).T[None]
  got = advantages.decoupled(kinds, [1.0, 0.1, 1.0, 0.1])[0]
  np.testing.assert_allclose(got, [2.2324, 0.3616, 0.3002, -1.7866, 2.2324, -1.8535, -1.7866, 0.3002], atol=1e-4)
  summed = advantages.grpo(kinds @ np.array([0.9, 0.1, 1.0, 0.0], np.float32))[0]
  np.testing.assert_allclose(summed, [1.3176, 0.1060, 0.2272, -1.1056, 1.3176, -0.9844, -1.1056, 0.2272], atol=1e-4)


def test_gdpo_keeps_apart_what_a_summed_reward_confuses():
  """The motivating example of arXiv 2601.05242: (0, 1) must not weigh as (0, 2), of two rewards."""
  one, two = np.array([[[0, 0], [1, 0]]], np.float32), np.array([[[0, 0], [1, 1]]], np.float32)
  summed = lambda r: np.asarray(advantages.grpo(r.sum(-1)))
  np.testing.assert_allclose(summed(one), summed(two), atol=1e-5)
  apart = lambda r: np.asarray(advantages.decoupled(r, [1.0, 1.0]))
  np.testing.assert_allclose(apart(two), 2 * apart(one), atol=1e-5)
  both = np.concatenate([one, two])
  got = np.asarray(advantages.gdpo(both, [1.0, 1.0]))
  np.testing.assert_allclose(got.ravel(), scipy.stats.zscore(apart(both).ravel(), ddof=1), atol=1e-5)
  np.testing.assert_allclose(got, advantages.gdpo(both, [10.0, 10.0]), atol=1e-5)  # only the ratio of weights matters


def test_gdpo_of_one_reward_and_one_group_is_grpo():
  rewards = np.random.default_rng(3).normal(size=(1, 9, 1)).astype(np.float32)
  np.testing.assert_allclose(advantages.gdpo(rewards, [1.0]), advantages.grpo(rewards[..., 0]), atol=1e-4)


def scores(rewards, valid=None, tokens=3, **more):
  """Scores of rewards [P, G, R], each response `tokens` long, of random weights."""
  rewards = np.asarray(rewards, np.float32)
  p, g, r = rewards.shape
  valid = np.ones((p, g), bool) if valid is None else valid
  weights = np.linspace(1.0, 0.3, r, dtype=np.float32)
  return advantages.Scores(rewards, weights, valid, np.ones((p, g, tokens), bool), **more)


@pytest.mark.slow
@pytest.mark.parametrize('name', advantages.ADVANTAGES)
@pytest.mark.parametrize('value', [0.7, 0.1, 1 / 3])
@pytest.mark.parametrize('components', [1, 3])
def test_equal_rewards_have_no_advantage_at_all(name, value, components):
  """Their float32 mean is another number than 0.7, and so is the mean of a sum of components."""
  rule = advantages.ADVANTAGES[name]
  rewards = np.full((128, 16, components), value, np.float32)
  assert (np.asarray(rule(scores(rewards))) == 0).all()
  valid = np.random.default_rng(0).random((128, 16)) < 0.7
  valid[:, :2] = True
  assert (np.asarray(rule(scores(np.where(valid[..., None], rewards, np.nan), valid))) == 0).all()


@pytest.mark.parametrize('name', advantages.ADVANTAGES)
def test_a_flat_group_is_flat_beside_others(name):
  rng = np.random.default_rng(0)
  rewards = rng.random((8, 16, 2)).astype(np.float32)
  rewards[3] = 0.7
  got = np.asarray(advantages.ADVANTAGES[name](scores(rewards)))
  if not advantages.ADVANTAGES[name].whole_batch:
    assert (got[3] == 0).all()
  assert np.isfinite(got).all() and (np.abs(got).max((1, 2))[[0, 1, 2, 4]] > 0.1).all()


@pytest.mark.slow
@pytest.mark.parametrize('name', advantages.ADVANTAGES)
def test_an_entry_says_what_its_rule_does(name):
  rule = advantages.ADVANTAGES[name]
  rewards = np.random.default_rng(1).random((4, 5, 2)).astype(np.float32)
  got = np.asarray(rule(scores(rewards, tokens=7)))
  assert got.shape == ((4, 5, 7) if rule.per_token else (4, 5, 1))
  alone = np.concatenate([rule(scores(rewards[i : i + 1], tokens=7)) for i in range(4)])
  assert np.allclose(got, alone, atol=1e-5) is not rule.whole_batch
  assert rule.meaning


def test_sums_of_components_are_weighted_and_lost_samples_stay_out():
  rewards = np.random.default_rng(2).random((2, 4, 2)).astype(np.float32)
  rewards[0, 1] = np.nan
  valid = ~np.isnan(rewards[..., 0])
  got = advantages.ADVANTAGES['grpo'](scores(rewards, valid))
  want = advantages.grpo(jnp.asarray(rewards @ np.array([1.0, 0.3], np.float32)), jnp.asarray(valid))
  np.testing.assert_allclose(got[..., 0], want, atol=1e-6)
  assert got[0, 1, 0] == 0


@pytest.mark.slow
def test_a_penalty_in_the_reward_lowers_returns_token_by_token_or_in_sum():
  rewards = np.random.default_rng(3).random((2, 3, 1)).astype(np.float32)
  penalty = np.random.default_rng(4).random((2, 3, 5)).astype(np.float32)
  given = scores(rewards, tokens=5, penalty=penalty)
  per_sample = advantages.ADVANTAGES['dr_grpo'](given)[..., 0]
  np.testing.assert_allclose(per_sample, advantages.dr_grpo(rewards[..., 0] - penalty.sum(-1)), atol=1e-6)
  placed = advantages.token_rewards(rewards[..., 0], given.mask, penalty, 1.0)
  per_token = advantages.ADVANTAGES['reinforce_pp'](given)
  np.testing.assert_allclose(per_token, advantages.reinforce_pp(placed, given.mask), atol=1e-6)
  with pytest.raises(ValueError, match='by component'):
    advantages.ADVANTAGES['gdpo'](given)


def brute_force_treepo(rewards, paths, *, by_size=False, reject=False):
  """The tree advantage of one query before whitening, from segment labels, group by group."""
  out = []
  for i, path in enumerate(paths):
    terms = []
    for level in range(max(map(len, paths))):
      group = [k for k, other in enumerate(paths) if other[:level] == path[:level]]
      values = [rewards[k] for k in group]
      if level and (len(group) < 2 or (reject and min(values) == max(values))):
        continue
      terms.append((len(group) if by_size else 1, rewards[i] - sum(values) / len(values)))
    out.append(sum(w * a for w, a in terms) / sum(w for w, _ in terms))
  return out


def lineage_of(paths):
  """Parents and first segments of their own, as a rollout plan gives them."""
  common = lambda a, b: next((n for n, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))
  parent, segment = [-1], [0]
  for i in range(1, len(paths)):
    shared = [common(paths[i], paths[k]) for k in range(i)]
    parent.append(int(np.argmax(shared)))
    segment.append(max(shared))
  return np.array([parent]), np.array([segment])


def test_the_worked_tree_of_the_paper_sheet():
  paths = [(f'{i >> 2}', f'{i >> 1}', f'{i}') for i in range(8)]
  rewards = jnp.array([[1.0, 1, -1, -1, -1, -1, 1, -1]])
  common = advantages.common_segments(*lineage_of(paths))
  got = advantages.treepo(rewards, common, jnp.ones((1, 8, 4), bool))
  want = [1.00949, 1.00949, -0.78516, -0.78516, -0.56083, -0.56083, 1.68249, -1.00949]
  np.testing.assert_allclose(got[0, :, 2], want, atol=2e-5)


def test_tree_advantage_equals_brute_force_over_labels():
  r = np.random.default_rng(0)
  for _ in range(40):
    paths = [()]
    for n in range(1, 7):
      other = paths[r.integers(len(paths))]
      kept = other[: r.integers(0, len(other) + 1)] if len(other) else ()
      kept = kept[: max(len(kept) - 1, 0)]
      paths.append((*kept, *((n, d) for d in range(r.integers(1, 5)))))
    paths[0] = ((0, 0),)
    rewards = r.integers(0, 2, len(paths)).astype(np.float32)
    common = advantages.common_segments(*lineage_of(paths))
    valid = np.ones((1, len(paths)), bool)
    for options in ({}, {'by_size': True}, {'reject': True}):
      got = advantages.tree_centred(rewards[None], common, valid, **{'by_size': False, 'reject': False, **options})
      np.testing.assert_allclose(got[0], brute_force_treepo(rewards, paths, **options), atol=1e-6)


def test_a_tree_of_depth_one_is_the_baseline_and_equal_rewards_are_zero():
  r = np.random.default_rng(2)
  rewards = r.normal(size=(3, 4)).astype(np.float32)
  mask = jnp.asarray(r.random((3, 4, 6)) < 0.7).at[1, 2].set(False)
  flat = np.zeros((3, 4, 4), np.int32)
  want = advantages.reinforce_pp_baseline(rewards, mask)
  np.testing.assert_allclose(advantages.treepo(rewards, flat, mask), want, atol=1e-6)
  common = advantages.common_segments(np.array([[-1, 0, 1, 0]] * 3), np.array([[0, 2, 1, 3]] * 3))
  assert common[0].tolist()[2] == [1, 1, common[0, 2, 2], 1] and common[0, 3].tolist()[:3] == [3, 2, 1]
  for options in ({}, {'by_size': True}, {'reject': True}):
    assert not advantages.treepo(jnp.full((3, 4), 0.7), common, mask, **options).any()
