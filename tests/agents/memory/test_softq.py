"""Soft Q-learning over cases, against closed forms, linear algebra and finite differences."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from agents.memory import softq


@pytest.fixture(autouse=True)
def exact():
  with jax.enable_x64(True):
    yield


def world(seed, states=4, cases=3, actions=5, leak=0.1):
  rng = np.random.default_rng(seed)
  model = rng.dirichlet(np.ones(actions), (states, cases))
  reward = rng.normal(size=(states, actions))
  transition = (1 - leak) * rng.dirichlet(np.ones(states), (states, actions))
  return softq.MMDP(*map(jnp.asarray, (model, reward, transition)))


def test_two_case_bandit_in_closed_form():
  """With one step the soft value of Q = (0, 1) at α = 0.5 is ½ log(1 + e²), and μ the logistic function of 2."""
  q = jnp.array([0.0, 1.0])
  assert softq.soft_value(q, 0.5) == pytest.approx(0.5 * math.log(1 + math.exp(2)))
  np.testing.assert_allclose(softq.soft_policy(q, 0.5), [1 / (1 + math.exp(2)), 1 / (1 + math.exp(-2))])
  target = softq.td_target(jnp.array([0.25]), q[None], 0.9, 0.5)
  assert target[0] == pytest.approx(0.25 + 0.9 * 0.5 * math.log(1 + math.exp(2)))
  assert target[0] != pytest.approx(0.25 + 0.9 * 0.5 * math.log(1 + math.exp(1)))  # as the paper prints it


def test_limits_of_temperature():
  q = jnp.array([[0.3, -1.0, 0.8, 0.1]])
  reward = jnp.array([0.5])
  for alpha in (0.0, 1e-4):
    assert softq.td_target(reward, q, 0.9, alpha)[0] == pytest.approx(0.5 + 0.9 * 0.8, abs=1e-3)
  hot = softq.td_target(reward, q, 0.9, 1e4)[0]
  assert hot == pytest.approx(0.5 + 0.9 * (float(q.mean()) + 1e4 * math.log(4)), rel=1e-6)


def test_absent_cases_and_last_steps_count_for_nothing():
  q, valid = jnp.array([[0.2, 9.0], [5.0, 5.0]]), jnp.array([[True, False], [False, False]])
  got = softq.td_target(jnp.array([1.0, 1.0]), q, 0.5, 0.3, valid=valid)
  np.testing.assert_allclose(got, [1.0 + 0.5 * 0.2, 1.0])  # an empty memory: the reward alone
  np.testing.assert_allclose(softq.td_target(jnp.ones(2), q, 0.5, 0.3, last=jnp.array([True, True])), [1, 1])
  assert jnp.isfinite(jax.grad(lambda x: softq.td_target(jnp.ones(2), x, 0.5, 0.3, valid=valid).sum())(q)).all()


@pytest.mark.slow
def test_the_soft_policy_attains_the_soft_value_and_no_other_does_better():
  rng = np.random.default_rng(0)
  q, alpha = jnp.asarray(rng.normal(size=6)), 0.4
  best = softq.soft_policy(q, alpha)
  assert softq.policy_value(q, best, alpha) == pytest.approx(float(softq.soft_value(q, alpha)))
  others = jnp.asarray(rng.dirichlet(np.ones(6), 200))
  assert (softq.policy_value(q[None], others, alpha) < softq.soft_value(q, alpha)).all()
  certain = jnp.eye(6)[0]
  assert softq.policy_value(q, certain, alpha) == pytest.approx(float(q[0]))  # no NaN from log 0


@pytest.mark.parametrize('alpha', [0.0, 0.05, 1.0])
def test_value_iteration_is_the_value_of_its_own_policy_by_linear_algebra(alpha):
  """(I - γ P_μ) V = r_μ + α H(μ), solved directly."""
  w, gamma = world(1), 0.95
  q = softq.value_iteration(w, gamma=gamma, alpha=alpha, tolerance=1e-12)
  mu = np.asarray(softq.soft_policy(q, alpha) if alpha else jax.nn.one_hot(q.argmax(-1), 3))
  pi = np.einsum('sc,sca->sa', mu, w.model)
  np.testing.assert_allclose(softq.overall_policy(w, jnp.asarray(mu)), pi)
  entropy = -np.sum(np.where(mu > 0, mu * np.log(np.where(mu > 0, mu, 1)), 0), -1)
  step = np.einsum('sa,sat->st', pi, w.transition)
  value = np.linalg.solve(np.eye(4) - gamma * step, np.sum(pi * np.asarray(w.reward), -1) + alpha * entropy)
  np.testing.assert_allclose(softq.soft_value(q, alpha), value, atol=1e-8)
  if alpha == 0:  # and it is the best of all 81 deterministic retrieval policies
    for choice in itertools.product(range(3), repeat=4):
      p = np.asarray(w.model)[np.arange(4), choice]
      v = np.linalg.solve(
        np.eye(4) - gamma * np.einsum('sa,sat->st', p, w.transition), np.sum(p * np.asarray(w.reward), -1)
      )
      assert (v <= value + 1e-8).all()


@pytest.mark.slow
def test_td_learning_from_samples_reaches_the_fixed_point():
  w, gamma, alpha = world(2, leak=0.3), 0.8, 0.3
  want = softq.value_iteration(w, gamma=gamma, alpha=alpha)

  def visit(carry, key):
    q, count = carry
    keys = jax.random.split(key, 4)
    s, c = jax.random.randint(keys[0], (), 0, 4), jax.random.randint(keys[1], (), 0, 3)
    a = jax.random.choice(keys[2], 5, p=w.model[s, c])
    p = jnp.append(w.transition[s, a], 1 - w.transition[s, a].sum())
    after = jax.random.choice(keys[3], 5, p=p)
    y = softq.td_target(w.reward[s, a], q[jnp.minimum(after, 3)], gamma, alpha, last=after == 4)
    count = count.at[s, c].add(1)
    return (softq.td_update(q, s, c, y, count[s, c] ** -0.8), count), None

  keys = jax.random.split(jax.random.key(0), 300_000)
  (q, _), _ = jax.jit(lambda k: jax.lax.scan(visit, (jnp.zeros((4, 3)), jnp.zeros((4, 3))), k))(keys)
  assert jnp.abs(q - want).max() < 0.08 < 0.8 < jnp.abs(want).max()


def test_a_discount_of_one_is_refused():
  with pytest.raises(ValueError, match=r'gamma=1.0; expected 0 <= gamma < 1'):
    softq.value_iteration(world(0), gamma=1.0, alpha=0.1)


def test_improvement_relative_to_a_uniform_prior_is_the_soft_policy():
  q = jnp.array([0.1, 0.9, -0.3])
  policy, value = softq.improve(jnp.ones(3) / 3, q, 0.2)
  np.testing.assert_allclose(policy, softq.soft_policy(q, 0.2))
  assert value == pytest.approx(float(softq.soft_value(q, 0.2) - 0.2 * math.log(3)))


def test_the_void_case_takes_over_as_similarity_fades():
  near = softq.retrieval_prior(softq.kernel(jnp.array([0.0, 0.5]), 0.5), 0.2)
  far = softq.retrieval_prior(softq.kernel(jnp.array([9.0, 9.5]), 0.5), 0.2)
  assert near[-1] < 0.15 and far[-1] > 0.999
  np.testing.assert_allclose([near.sum(), far.sum()], 1)
  np.testing.assert_allclose(softq.retrieval_prior(jnp.ones(2), 0.0)[-1], 0)


def memory(seed=0):
  rng = np.random.default_rng(seed)
  return (
    softq.Kernel(jnp.asarray(rng.normal(size=(3, 4))), jnp.asarray(0.2)),
    softq.Episodes(*map(jnp.asarray, (rng.normal(size=(9, 4)), rng.integers(0, 3, 9), rng.normal(size=9)))),
    *map(jnp.asarray, (rng.normal(size=(5, 4)), np.array([0, 1, 2, 0, 1]), rng.normal(size=5))),
  )


def test_episodic_q_is_a_weighted_mean_and_the_mean_of_all_for_an_unseen_case():
  params, episodes, states, cases, _ = memory()
  got = softq.episodic_q(params, episodes, states, cases)
  for b in range(5):
    mine = np.flatnonzero(np.asarray(episodes.cases) == int(cases[b]))
    gap = (np.asarray(states)[b] - np.asarray(episodes.states)[mine]) @ np.asarray(params.projection).T
    k = np.exp(-(gap**2).sum(-1) / (2 * np.exp(0.2) ** 2))
    assert got[b] == pytest.approx(float(k @ np.asarray(episodes.values)[mine] / k.sum()))
  unseen = softq.episodic_q(params, episodes, states, jnp.full(5, 7))
  np.testing.assert_allclose(unseen, jnp.full(5, episodes.values.mean()))


def test_kernel_gradient_is_the_paper_s_and_that_of_finite_differences():
  params, episodes, states, cases, y = memory()
  loss = lambda p: softq.kernel_loss(p, episodes, states, cases, y)
  got = jax.grad(loss)(params)
  # ∇L = 2 E[(f - y) Σ_i w_i (Q_i - f) ∇ log k(s, s_i)]
  f = softq.episodic_q(params, episodes, states, cases)
  mine = cases[:, None] == episodes.cases[None]
  w = jax.nn.softmax(jnp.where(mine, softq.log_kernel(params, states, episodes.states), -jnp.inf), -1)
  factor = 2 * (f - y)[:, None] * w * (episodes.values[None] - f[:, None]) / len(y)
  paper = jax.grad(lambda p: jnp.sum(factor * softq.log_kernel(p, states, episodes.states)))(params)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-10), got, paper)
  step = 1e-6
  for at in [(0, 0), (2, 3)]:
    move = lambda d, at=at: params.replace(projection=params.projection.at[at].add(d))
    assert (loss(move(step)) - loss(move(-step))) / (2 * step) == pytest.approx(float(got.projection[at]), rel=1e-5)
  move = lambda d: params.replace(log_bandwidth=params.log_bandwidth + d)
  assert (loss(move(step)) - loss(move(-step))) / (2 * step) == pytest.approx(float(got.log_bandwidth), rel=1e-5)


def test_the_kernel_learns_which_direction_matters():
  """Values depend on the first coordinate; the others are noise. Learning W lowers the error on fresh states."""
  rng = np.random.default_rng(0)
  draw = lambda n: rng.normal(size=(n, 6)) * np.array([1, 2, 2, 2, 2, 2])
  stored, train, fresh = draw(150), draw(200), draw(200)
  truth = lambda x: jnp.asarray(np.sin(2 * x[:, 0]))
  episodes = softq.Episodes(jnp.asarray(stored), jnp.zeros(150, int), truth(stored))
  cases, params = jnp.zeros(200, int), softq.Kernel(jnp.eye(6), jnp.asarray(0.0))
  error = lambda p, x: softq.kernel_loss(p, episodes, jnp.asarray(x), cases, truth(x))
  optimizer = optax.adam(0.05)

  def step(carry, _):
    p, s = carry
    updates, s = optimizer.update(jax.grad(error)(p, train), s)
    return (optax.apply_updates(p, updates), s), None

  (learnt, _), _ = jax.jit(lambda p: jax.lax.scan(step, (p, optimizer.init(p)), length=150))(params)
  assert error(learnt, fresh) < 0.25 * error(params, fresh)


def test_an_empty_memory_is_worth_nothing_and_empty_entries_count_for_nothing():
  params, episodes, states, cases, _ = memory()
  grown = jax.tree.map(lambda x: jnp.concatenate([x, 7 * jnp.ones_like(x[:4])]), episodes)
  grown = grown.replace(cases=grown.cases.at[9:].set(-1))
  for asked in (cases, jnp.full(5, 8)):
    np.testing.assert_allclose(
      softq.episodic_q(params, grown, states, asked), softq.episodic_q(params, episodes, states, asked)
    )
  empty = grown.replace(cases=jnp.full(13, -1))
  np.testing.assert_array_equal(softq.episodic_q(params, empty, states, cases), 0)
  gradient = jax.grad(lambda p: softq.episodic_q(p, empty, states, cases).sum())(params)
  assert all(jnp.isfinite(g).all() for g in jax.tree.leaves(gradient))


def test_kernel_control_learns_which_case_suits_which_state():
  """The whole loop of the paper on a bandit: the sign of one coordinate of six decides which of two cases is right."""
  size, control = 300, softq.Control(alpha=0.1)
  optimizer = optax.adam(0.03)

  @jax.jit
  def step(carry, t):
    params, target, moments, d = carry
    keys = jax.random.split(jax.random.fold_in(jax.random.key(1), t), 3)
    s = jax.random.normal(keys[0], (1, 6))
    q = jnp.stack([softq.episodic_q(params, d, s, jnp.full(1, c))[0] for c in range(2)])
    case = jax.random.categorical(keys[1], q / control.alpha)
    reward = jnp.where((s[0, 0] > 0) == (case == 1), 1.0, 0.0)
    y = softq.td_target(reward[None], q[None], control.gamma, control.alpha, last=True)  # one step an episode
    rows = jax.random.randint(keys[2], (32,), 0, t + 1)
    d = softq.Episodes(d.states.at[t].set(s[0]), d.cases.at[t].set(case), d.values.at[t].set(y[0]))
    # Each drawn entry is predicted from the others: it must not answer for itself.
    loss = lambda p: jax.vmap(
      lambda i: softq.kernel_loss(
        p, d.replace(cases=d.cases.at[i].set(-1)), d.states[i][None], d.cases[i][None], d.values[i][None]
      )
    )(rows).mean()
    change, moments = optimizer.update(jax.grad(loss)(params), moments)
    params = optax.apply_updates(params, change)
    return (params, softq.soft_copy(target, params, control.keep), moments, d), reward

  params = softq.Kernel(jnp.eye(6), jnp.asarray(0.0))
  empty = softq.Episodes(jnp.zeros((size, 6)), jnp.full(size, -1), jnp.zeros(size))
  _, rewards = jax.lax.scan(step, (params, params, optimizer.init(params), empty), jnp.arange(size))
  assert rewards[:30].mean() < 0.75 and rewards[-100:].mean() > 0.85


@pytest.mark.slow
def test_kernel_targets_bootstrap_from_every_case_of_the_bank():
  params, episodes, states, _, rewards = memory()
  last = jnp.array([False, False, True, False, True])
  control = softq.Control(gamma=0.9, alpha=0.3)
  got = softq.kernel_targets(params, episodes, rewards, states, last, jnp.arange(3), control)
  q = np.stack([softq.episodic_q(params, episodes, states, jnp.full(5, c)) for c in range(3)], 1)
  want = np.asarray(rewards) + 0.9 * np.where(last, 0, 0.3 * np.log(np.exp(q / 0.3).sum(1)))
  np.testing.assert_allclose(got, want)
  mixed = softq.soft_copy(params, jax.tree.map(jnp.zeros_like, params), control.keep)
  np.testing.assert_allclose(mixed.projection, 0.9 * params.projection)
