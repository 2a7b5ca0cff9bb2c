"""A flow model through the seam: paths, scores of their steps, and one run on the loop."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core import mesh, params
from rl.flow import mmdit
from rl.flow.policy import FlowPolicy, PathOptions, Paths
from rl.flow.sampling import Noise
from rl.flow.toy import digits
from rl.flow.toy.words import Words
from rl.learning.batch import pack
from rl.learning.update import Pass, update_loss
from rl.losses import RULES, Kl
from rl.policy import Slots
from rl.rollout import Ask, Group
from rl.rollout.collect import Collected

ONE = mesh.make(devices=jax.devices()[:1])
CONFIG = mmdit.Config(channels=1, heads=2, head_dim=4, text=8, pooled=8, joint=2, table=4, table_extent=4)
FLUX = mmdit.CONFIGS['tiny-flux']
OPTIONS = PathOptions(steps=6, fraction=0.8)
FORMS = {
  'flow': OPTIONS,
  'dance': dataclasses.replace(OPTIONS, noise=Noise('dance', 0.3)),
  'window': dataclasses.replace(OPTIONS, window=2),
  'guided': dataclasses.replace(OPTIONS, guidance=4.5),
  'normalised': dataclasses.replace(OPTIONS, normalised=True),
}
SLOTS = Slots(prompt=0, response=4, samples=3, tiles=0)
QUERIES = [digits.query('heldout', 0, i) for i in range(2)]


def policy_of(options, config=CONFIG):
  latent = (8, 8, config.channels)
  encode = Words(config.text, config.pooled)
  return FlowPolicy(config, options, latent=latent, encode=encode, decode=digits.decode, rows=6)


@pytest.fixture(scope='module')
def weights():
  return drawn(CONFIG)


def drawn(config):
  """Random weights: those of the start have velocity 0."""
  spec = mmdit.spec(config)
  leaves, tree = jax.tree.flatten(spec)
  rng = np.random.default_rng(0)
  arrays = [jnp.asarray(0.3 * rng.normal(size=s.shape), jnp.float32) for s in leaves]
  return jax.tree.unflatten(tree, arrays)


class Sampler:
  """What a plan sees of `rl.rollout.Sampler`."""

  def __init__(self, policy, weights):
    self.policy, self.engine = policy, policy.engine(weights, None, ONE)


def rollout(policy, weights, *, step=0, numbers=(0, 1), samples=3, **options):
  prompts = [policy.prompt(query.messages) for query in QUERIES]
  ask = Ask(step, 0, numbers, QUERIES, prompts)
  return Paths(samples, **options)(Sampler(policy, weights), ask)


def packed_of(policy, groups, rewards=None):
  made = []
  for number, group in enumerate(groups):
    n = len(group)
    gain = np.float32(np.arange(n) if rewards is None else rewards[number])
    yes, no = np.ones(n, bool), np.zeros(n, bool)
    made.append(Group(number, QUERIES[number], group, np.ones(1, np.float32), gain[:, None], gain, gain, yes, no))
  collected = Collected(made, made[0], len(made), {}, 0)
  slots = SLOTS._replace(response=policy.options.count)
  return pack(policy, collected, 'shared', fresh=False, given=slots)


@pytest.mark.slow
@pytest.mark.parametrize('dtype, tolerance', [('float32', 1e-6), ('bfloat16', 1e-4)])
@pytest.mark.parametrize('name, config', [*((name, CONFIG) for name in FORMS), ('guided', FLUX)])
def test_ratios_are_one_before_the_first_update(name, config, dtype, tolerance):
  """In bfloat16 the rows of another batch may round otherwise; less than the clip range, 1e-4, does not matter."""
  weights = drawn(config)
  policy = policy_of(FORMS[name], config)
  packed = packed_of(policy, rollout(policy, params.cast(weights, dtype)))
  score = Pass(policy, dtype=dtype)
  logp, _ = jax.jit(lambda w, x: score(w, x))(weights, packed.batch.inputs)
  ratio = np.exp(np.asarray(logp) - packed.batch.sampled)
  np.testing.assert_allclose(ratio, 1, atol=tolerance)
  assert packed.batch.mask.all() and logp.shape == (2, 3, policy.options.count)


def test_an_image_depends_on_its_own_seed_alone(weights):
  policy = policy_of(OPTIONS)
  groups = rollout(policy, weights)
  alone = rollout(dataclasses.replace(policy, rows=4), weights)  # in other batches
  for group, other in zip(groups, alone):
    for t, again in zip(group, other):
      assert np.array_equal(t.tokens, again.tokens)
      np.testing.assert_allclose(again.states, t.states, atol=1e-5)


@pytest.mark.slow
def test_a_group_starts_from_one_noise_and_then_parts(weights):
  policy = policy_of(dataclasses.replace(OPTIONS, window=3))
  first, second, _ = rollout(policy, weights)[0]
  assert np.array_equal(first.states[0], second.states[0])
  assert not np.allclose(first.following[0], second.following[0])
  apart = rollout(policy_of(dataclasses.replace(OPTIONS, window=3, shared_noise=False)), weights)[0]
  assert not np.allclose(apart[0].states[0], apart[1].states[0])


def test_deterministic_paths_follow_the_ode(weights):
  policy = policy_of(OPTIONS)
  one = rollout(policy, weights, samples=1, deterministic=True)[0][0]
  again = rollout(
    policy_of(dataclasses.replace(OPTIONS, noise=Noise('dance', 0.9))), weights, samples=1, deterministic=True
  )
  assert np.array_equal(np.asarray(one.response), np.asarray(again[0][0].response))


@pytest.mark.slow
@pytest.mark.parametrize('name, coef', [('flow', 0.0), ('flow', 0.1), ('dance', 0.1), ('normalised', 0.1)])
def test_gradient_of_the_whole_loss(name, coef, weights):
  """Against finite differences in a random direction, with wide clipping bounds, since a clipped loss has corners."""
  policy = policy_of(FORMS[name])
  packed = packed_of(policy, rollout(policy, weights))
  rule = dataclasses.replace(RULES['pref_grpo'], clip_low=1.0, clip_high=10.0, kl=Kl(coef))
  batch = packed.batch.replace(advantages=np.float32([[[1.0], [-0.5], [0.2]], [[-1.0], [0.3], [0.8]]]))
  score = Pass(policy)
  if coef:
    smaller = jax.tree.map(lambda x: 0.9 * x, weights)
    batch = batch.replace(ref_logp=score.reference(smaller, batch.inputs))

  @jax.jit
  def loss(w):
    out = update_loss(w, batch, jax.random.key(0), score=score, rule=rule)
    return out.total / out.weight

  rng = np.random.default_rng(1)
  moved = jax.tree.map(lambda x: x + 0.01 * jnp.asarray(rng.normal(size=x.shape), jnp.float32), weights)
  direction = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), jnp.float32), weights)
  direction = direction.replace(positions=jnp.zeros_like(weights.positions))  # a table that is not trained
  gradient = jax.jit(jax.grad(loss))(moved)
  slope = sum(float(jnp.vdot(g, d)) for g, d in zip(jax.tree.leaves(gradient), jax.tree.leaves(direction)))
  step = 5e-4
  at = lambda distance: float(loss(jax.tree.map(lambda w, d: w + distance * d, moved, direction)))
  numeric = (at(step) - at(-step)) / (2 * step)
  assert slope == pytest.approx(numeric, rel=0.02, abs=2e-3)


@pytest.mark.slow
def test_divergence_from_itself_is_zero_and_grows(weights):
  policy = policy_of(OPTIONS)
  inputs = packed_of(policy, rollout(policy, weights)).batch.inputs
  means = policy.reference(weights, inputs)
  logp, zero = policy.divergent_log_probs(weights, inputs, means)
  assert float(jnp.abs(zero).max()) < 1e-9
  plain, _ = policy.log_probs(weights, inputs)
  np.testing.assert_allclose(logp, plain, atol=1e-6)
  _, apart = policy.divergent_log_probs(weights, inputs, means + 0.1)
  assert float(apart.min()) > 0


def test_steps_of_normalised_ratios_weigh_one_over_their_length(weights):
  policy = policy_of(FORMS['normalised'])
  packed = packed_of(policy, rollout(policy, weights))
  lengths = -np.diff(policy.options.schedule.levels)
  np.testing.assert_allclose(packed.batch.weight, 1 / lengths[packed.batch.inputs.index])


def test_trained_steps_differ_between_images_and_rollouts():
  options = PathOptions()
  assert options.count == 14
  picks = options.trained(3, [0, 1])
  assert picks.max() < 24 and len(set(picks[0])) == 14
  assert not np.array_equal(picks[0], picks[1])
  assert not np.array_equal(picks, options.trained(4, [0, 1]))


@pytest.mark.parametrize(
  'change, message',
  [
    ({'fraction': 0.01}, 'fraction=0.01'),
    ({'window': 6}, 'window=6'),
    ({'steps': 1}, 'steps=1'),
    ({'guidance': 0.0}, 'guidance=0.0'),
  ],
)
def test_options_that_cannot_be_are_refused(change, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(OPTIONS, **change)


def test_other_policies_queries_are_refused():
  policy = policy_of(OPTIONS)
  with pytest.raises(ValueError, match='1 images'):
    policy.prompt([{'role': 'user', 'content': 'a'}], images=[None])
  with pytest.raises(ValueError, match=r'temperature=0\.7'):
    policy.log_probs(None, None, temperature=0.7)
  with pytest.raises(ValueError, match="layout='rows'"):
    policy.slots([], 'rows')
  with pytest.raises(ValueError, match='5 words'):
    policy.encode('a b c d e')
